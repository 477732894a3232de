"""Turn the garbage collector on again once the forkserver has imported its modules.

From then on it skips what these modules hold, also in the processes forked from the forkserver, so
that it is faster there and copies no pages for nothing. Only the forkserver imports this module.
"""

import gc

gc.freeze()
gc.enable()

"""Turn the garbage collector off while the forkserver imports its modules.

During imports it would search all objects over and over, which takes a fifth of the time, and find
nothing. Only the forkserver imports this module, and `collector_on` after its last module.
"""

import gc

gc.disable()

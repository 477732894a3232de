"""Check whether the Hugging Face Hub can be reached."""

import socket
import urllib.parse
import urllib.request

import huggingface_hub


def hub_has_address() -> bool:
    """Return False if the hub's name has no address; its client would try for a minute.

    Behind a proxy, which looks up the name itself, return True.
    """
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True

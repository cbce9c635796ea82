"""Whether the model hub answers, so that nothing waits for a network that is not there.

huggingface_hub tries each file six times, with 23 s of pauses, and warns of each try.
"""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 5.0


def hub_answers(timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the hub, or its mirror HF_ENDPOINT, answers at all, through the user's proxies."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the user's endpoint
        urllib.request.urlopen(request, timeout=timeout_s).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # a refusal is an answer
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it may be known to the libraries' own store
    except (OSError, ValueError):
        return False
    return True


def download_elsewhere(model: str) -> str:
    """The remedy for a hub model that this machine cannot download, in words."""
    return (
        f"run `hf download {model} --local-dir DIR` on a machine that reaches the hub, and pass "
        "--model DIR"
    )


def use_cache_only() -> None:
    """Make huggingface_hub, in this process, take files from its cache without asking the hub."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True

"""URLs of databases, without what may not be written down."""

from __future__ import annotations

import re

CREDENTIALS_MASK = "***"
USER = re.compile(r"//(?!/)[^:/@\s]*(:\S*)?@")
"""User name and password as SQLAlchemy reads them: a password may hold slashes."""
PARAMETER = re.compile(
    r"([?&;][^=&;\s]*(?:pass|pwd|secret|token|odbc_connect)[^=&;\s]*=)[^&\s]*", re.IGNORECASE
)
"""A parameter of the query that is, or may hold, a password."""


def without_password(text: str) -> str:
    """Return `text` with each URL's user name and password replaced by CREDENTIALS_MASK.

    Parameters that hold a password are replaced too. Files and messages contain this text instead
    of the original.
    """
    text = PARAMETER.sub(rf"\1{CREDENTIALS_MASK}", text)
    return USER.sub(f"//{CREDENTIALS_MASK}@", text)

"""The access token of a Label Studio server: read where it is kept, and kept out of every message."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prelabel.errors import ConfigError

VARIABLE = "LABEL_STUDIO_API_KEY"


def read_token(token_file: str) -> str:
    """The token from a file, or from the environment where none is given.

    Raises:
        ConfigError: There is none, or something else; what was found is not quoted.
    """
    if token_file:
        where = f"token-file {token_file}"
        try:
            text = Path(token_file).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{where} cannot be read: {reason}") from None
    else:
        where = VARIABLE
        text = os.environ.get(VARIABLE, "")
    token = text.strip()
    if not token:
        what = "is empty" if token_file else "is not set"
        raise ConfigError(
            f"{where} {what}: it must hold an access token (in Label Studio: Account & Settings, Access Token)"
        )
    # What a header cannot hold would be quoted in an error of the HTTP library.
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise ConfigError(f"{where} holds no access token: it must be one word of letters, digits and ._~+/=-")
    return token

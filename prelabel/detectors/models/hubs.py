"""The model hubs tfhub.dev and Kaggle: URLs of archives, mirrors, Kaggle's credentials.

A mirror's base URL takes the place of `https://tfhub.dev` and `https://www.kaggle.com`. The path stays as it is:

    https://tfhub.dev/google/x/1          -> MIRROR/google/x/1?tf-hub-format=compressed
    https://www.kaggle.com/models/g/x/... -> MIRROR/models/g/x/...?tf-hub-format=compressed

Kaggle's credentials are looked up where Kaggle's own client (kagglehub with kagglesdk 0.1.38) finds them, in the same
order, and are sent to kaggle.com over https only.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from prelabel.errors import ConfigError, DetectorError
from prelabel.storage.address import is_http, redact

#: Environment variable with the base URL of a mirror, for `--model-mirror`.
MIRROR_VARIABLE = "PRELABEL_MODEL_MIRROR"
ARCHIVE = re.compile(r"\.(tar\.gz|tgz|tar)$", re.IGNORECASE)

_HUB_HOSTS = ("tfhub.dev", "www.kaggle.com", "kaggle.com")
_KAGGLE_PAGE = re.compile(
    r"https://(?:www\.)?kaggle\.com/models/([^/?#]+)/([^/?#]+)"
    r"/(?:frameworks/)?([^/?#]+)/(?:variations/)?([^/?#]+)/(?:versions/)?(\d+)/?(?:[?#]|$)",
    re.IGNORECASE,
)
#: Seconds that TensorFlow Hub's own resolver may take.
_RESOLVER_TIMEOUT_S = 3600.0
#: The URLs come on standard input, since command lines are visible to all users of the machine.
_RESOLVE = """
import json, socket, sys, warnings
warnings.simplefilter("ignore")
socket.setdefaulttimeout(60)
import tensorflow_hub
for url in json.load(sys.stdin):
    try:
        print("\\n" + tensorflow_hub.resolve(url))
        sys.exit()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
sys.exit(reason)
"""


def mirror_base(mirror: str | None = None) -> str:
    """The given mirror, else `PRELABEL_MODEL_MIRROR`, else `""`; without a trailing slash.

    Raises:
        ConfigError: It is not the base URL of a web server.
    """
    base = (mirror or os.environ.get(MIRROR_VARIABLE, "")).strip().rstrip("/")
    if base and (not is_http(base) or not urlsplit(base).hostname or "?" in base or "#" in base):
        raise ConfigError(
            f"--model-mirror (or {MIRROR_VARIABLE}) must be an http or https URL without a query, got "
            f"{redact(base)!r}; give a model in a folder or in object storage as the detector itself"
        )
    return base


def is_hub_page(url: str) -> bool:
    """Whether a URL is a page of tfhub.dev or Kaggle."""
    return is_http(url) and (urlsplit(url).hostname or "") in _HUB_HOSTS


def archive_urls(url: str, mirror: str = "") -> list[str]:
    """The URLs to ask for the archive of a model, in order.

    Args:
        url: URL of an archive, or of a page that answers `?tf-hub-format=compressed` with one.
        mirror: From `mirror_base`. If there is one, pages of the hubs are requested from it alone.
    """
    parts = urlsplit(url)
    if is_hub_page(url) and mirror:
        base = urlsplit(mirror)
        parts = parts._replace(scheme=base.scheme, netloc=base.netloc, path=base.path + parts.path)
    if ARCHIVE.search(parts.path):
        return [urlunsplit(parts)]
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "tf-hub-format"]
    urls = [urlunsplit(parts._replace(query=urlencode([*query, ("tf-hub-format", "compressed")]), fragment=""))]
    page = None if mirror else _KAGGLE_PAGE.match(url)
    if page and kaggle_credentials():
        # The page may not accept credentials; Kaggle's API does.
        owner, model, framework, variation, version = page.groups()
        framework = framework[0].lower() + framework[1:]
        urls.append(f"https://www.kaggle.com/api/v1/models/{owner}/{model}/{framework}/{variation}/{version}/download")
    return urls


@dataclass(frozen=True, slots=True)
class Credentials:
    """What identifies the user to Kaggle.

    Attributes:
        header: Value of the `Authorization` header; secret.
        origin: The variable or file that it comes from.
    """

    header: str = field(repr=False)
    origin: str


def kaggle_credentials() -> Credentials | None:
    """Kaggle's credentials, or None if none are set.

    The first of these counts: `KAGGLE_API_TOKEN` (a token, or a file that holds one), `~/.kaggle/access_token` (or with
    `.txt`), `KAGGLE_USERNAME` with `KAGGLE_KEY`, and `kaggle.json` in `KAGGLE_CONFIG_DIR` or `~/.kaggle`.

    Raises:
        ConfigError: They contain characters that credentials cannot have.
    """
    home = Path("~/.kaggle").expanduser()
    given = os.environ.get("KAGGLE_API_TOKEN", "").strip()
    if token := _text_of(Path(given)) or given if given else "":
        return Credentials(f"Bearer {_checked(token, 'KAGGLE_API_TOKEN')}", "KAGGLE_API_TOKEN")
    for name in ("access_token", "access_token.txt"):
        if token := _text_of(home / name):
            return Credentials(f"Bearer {_checked(token, str(home / name))}", str(home / name))
    user, key = os.environ.get("KAGGLE_USERNAME", ""), os.environ.get("KAGGLE_KEY", "")
    origin = "KAGGLE_USERNAME and KAGGLE_KEY"
    if not (user and key):
        path = Path(os.environ.get("KAGGLE_CONFIG_DIR") or home).expanduser() / "kaggle.json"
        try:
            stored = json.loads(_text_of(path))
            user, key, origin = stored["username"], stored["key"], str(path)
        except (ValueError, LookupError, TypeError):
            return None
    pair = f"{_checked(user, origin)}:{_checked(key, origin)}"
    return Credentials("Basic " + base64.b64encode(pair.encode()).decode(), origin)


def _text_of(path: Path) -> str:
    """The text of a small file without surrounding white space; empty if it cannot be read."""
    try:
        return path.read_text("utf-8").strip() if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _checked(value: object, origin: str) -> str:
    if not (isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value):
        raise ConfigError(f"the Kaggle credentials in {origin} contain characters that credentials cannot have")
    return value


def is_kaggle(url: str) -> bool:
    """Whether a URL is on kaggle.com over https. No other URL receives Kaggle's credentials."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == "kaggle.com" or host.endswith(".kaggle.com"))


def authorization(url: str) -> str | None:
    """The `Authorization` header of a request: Kaggle's credentials if it goes to Kaggle, else None."""
    credentials = kaggle_credentials() if is_kaggle(url) else None
    return credentials.header if credentials else None


def download_advice(urls: Sequence[str], statuses: Sequence[int | None], mirror: str = "") -> str:
    """Advice for a user whose model could not be downloaded.

    Args:
        urls: The URLs that were tried, as the user or the catalog spells them.
        statuses: HTTP status of each answer; None if there was none.
        mirror: The mirror that was used in place of the hubs, or `""`.
    """
    steps = []
    if not any(map(is_hub_page, urls)):
        if {401, 403} & set(statuses):
            steps.append("check your permission for this URL")
        else:
            steps.append("check the URL and the network" if None in statuses else "check the URL and the version in it")
    elif mirror:
        steps.append(f"check that the mirror {redact(mirror)} has this path")
    else:
        if {401, 403, 404} & set(statuses) and any("kaggle.com" in url for url in urls):
            credentials = kaggle_credentials()
            steps.append(
                f"check the Kaggle credentials in {credentials.origin}"
                if credentials
                else "set KAGGLE_API_TOKEN (see https://www.kaggle.com/settings/api)"
            )
        if 404 in statuses:
            steps.append("check the URL and the version in it")
        if None in statuses:
            steps.append("check the network")
        steps.append("use --model-mirror")
    text = ", ".join(steps) + ", or copy the model from elsewhere with `prelabel fetch --to`"
    return text + ("; demo-shapes needs no download" if any(map(is_hub_page, urls)) else "")


def resolve_with_tensorflow_hub(urls: Sequence[str]) -> Path:
    """The folder of a model from TensorFlow Hub's own resolver: from `TFHUB_CACHE_DIR`, or downloaded.

    The resolver runs in a separate process, since it needs all of TensorFlow and may hang.

    Raises:
        DetectorError: The resolver cannot provide the model.
    """
    command = [sys.executable, "-P", "-c", _RESOLVE]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(urls)),
            env=quiet,
            capture_output=True,
            text=True,
            timeout=_RESOLVER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DetectorError(f"TensorFlow Hub's own resolver: {type(error).__name__}") from error
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [""]
    if done.returncode != 0:
        raise DetectorError(f"TensorFlow Hub's own resolver: {redact(lines[-1])[:300]}")
    return Path(lines[-1])

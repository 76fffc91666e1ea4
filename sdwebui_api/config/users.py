"""The users of `--cluster`: which names they may have, and the folder that is theirs alone."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

LONGEST_NAME = 128
"""Characters."""
USERS_FOLDER = "users"
"""Below the data directory."""
OWN_FOLDERS = (
    *("Stable-diffusion", "VAE", "Lora", "ControlNet", "embeddings", "hypernetworks", "GFPGAN", "BeautifulPrompt"),
)
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
_HASHED = re.compile(r".*-[0-9a-f]{16}")
_DEVICES = re.compile(r"con|prn|aux|nul|com\d|lpt\d")


def clean_name(text: str) -> str | None:
    """The user that `text` names; None when it can name nobody.

    Two spellings of the same characters (composed or not) are one name; letters of different case are not.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not 0 < len(name) <= LONGEST_NAME:
        return None
    # Control and format characters, surrogates, unassigned ones: nothing that is read otherwise than it is written.
    if any(unicodedata.category(character)[0] == "C" or character in "\u2028\u2029" for character in name):
        return None
    return name


def folder_name(user: str) -> str:
    """One folder name per user, also where the file system ignores case or composes characters otherwise.

    Simple names are kept; all others become what is simple in them and a hash of the whole.
    """
    if _PLAIN.fullmatch(user) and not _HASHED.fullmatch(user) and not _DEVICES.fullmatch(user):
        return user
    readable = re.sub(r"[^a-z0-9]+", "-", user.lower())[:24].strip("-") or "user"
    return f"{readable}-{hashlib.sha256(user.encode()).hexdigest()[:16]}"


def home_of(user: str, data_dir: Path) -> Path:
    """The user's data directory."""
    return data_dir / USERS_FOLDER / folder_name(user)

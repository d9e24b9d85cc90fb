"""Where a study is kept, and whether it is the one that is asked for."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from mergekit_breadcrumbs.tune.lost import try_again
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.wording import one_line, shortened

JOURNAL = "study.journal"
"""The file in the output folder that a study is kept in."""
HEARTBEAT = 30
"""Seconds between two signs of life of a worker; after three without, it is dead."""
_TRIES = 3
_IDENTITY = "identity"


def open_study(
    searches: Sequence[Search],
    *,
    name: str,
    storage: str | None,
    out: Path,
    identity: Mapping[str, str],
    heartbeat: int = HEARTBEAT,
) -> optuna.Study:
    """Open a study in which more is better, or begin it.

    Without a storage it is in `OUT/study.journal`, a file of Optuna's that works on a
    folder that machines share. Its lock is a file that is made with O_EXCL, which
    happens as a whole on every local file system, NFS since version 3, and SMB.
    Optuna's other lock, a symbolic link, is for NFS 2, and cannot be made on SMB, FAT
    and, without privileges, Windows.

    Args:
        searches: the space.
        name: of the study, in its storage.
        storage: a URL as SQLAlchemy has it. Workers then give signs of life, and what
            a dead one was at is tried again by others, wherever they are.
        out: a folder, which exists.
        identity: what makes it this study: the config, say, and the scorer.
        heartbeat: seconds between two signs of life, at least 1.

    Raises:
        ValueError: if there is a study of this name with another identity or space, or
            the storage cannot be used.
        OSError: if the file cannot be read or written.
    """
    where = shown(storage) if storage is not None else str(out / JOURNAL)
    with quiet():
        if storage is None:
            study = _study(_journal(out / JOURNAL), name)
        else:
            try:
                study = _study(_database(storage, heartbeat), name)
            except (SQLAlchemyError, ImportError) as error:
                # The driver's own words; Optuna's hide which module is missing.
                cause = getattr(error, "orig", None) or error.__cause__ or error
                words = shortened(str(cause))
                raise ValueError(f"{where} cannot be used: {words}") from error
    wanted = {**identity, **{f"range of {s.name}": _range(s) for s in searches}}
    stored = study.user_attrs.get(_IDENTITY)
    if stored is None:
        study.set_user_attr(_IDENTITY, wanted)
    elif stored != wanted:
        raise ValueError(
            f"the study {name} in {where} is another one: {_unlike(stored, wanted)}."
            " Give this one another name or output folder"
        )
    return study


def let_go(study: optuna.Study) -> None:
    """Have a study that holds no score yet be whose it will be next.

    A mistake in the scorer's command would bind an output folder to it otherwise.
    """
    if not study.trials and study.user_attrs.keys() == {_IDENTITY}:
        study.set_user_attr(_IDENTITY, None)


def _study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )


def _journal(path: Path) -> JournalStorage:
    lock = JournalFileOpenLock(str(path))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _database(url: str, heartbeat: int, tries: int = _TRIES) -> RDBStorage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=try_again,
            )
    # Two workers may make the tables of a new database at once, which one of them may.
    except (IntegrityError, OperationalError, ProgrammingError):
        if tries == 1:
            raise
    time.sleep(1)
    return _database(url, heartbeat, tries - 1)


def shown(url: str) -> str:
    """Return a storage's URL without its password.

    Example:
        >>> shown("postgresql://me:secret@host/tune")
        'postgresql://me:***@host/tune'
    """
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "the storage"


def _range(search: Search) -> str:
    return f"{search.low} to {search.high}{', log' if search.log else ''}"


def _unlike(stored: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Say what differs between two studies."""
    keys = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
    parts = []
    for key in keys:
        was, now = (
            one_line(of[key]) if key in of else "none" for of in (stored, wanted)
        )
        parts.append(f"its {key} is {was}, and not {now}")
    return "; ".join(parts)


@contextmanager
def quiet() -> Iterator[None]:
    """Have Optuna log nothing but errors: what there is to say is said by others."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

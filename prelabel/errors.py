"""All errors that this package raises on purpose. Catch `PrelabelError` to catch all of them.

    PrelabelError
     +-- ConfigError                an option, a job file or a combination of options is not allowed (exit code 2)
     +-- SourceError                images cannot be listed, planned or fetched
     |    +-- FetchError            the bytes of an image cannot be read
     +-- DecodeError                the bytes of an image cannot be decoded
     |    +-- EmptyFileError        the file has no bytes
     |    +-- UnknownFormatError    the file is not an image, or its format is not supported
     |    +-- MissingCodecError     the format needs an extra that is not installed
     |    +-- TruncatedImageError   the end of the file is missing
     |    +-- CorruptImageError     the content violates the format
     |    +-- ImageTooLargeError    the image has more pixels or bytes than allowed
     +-- DetectorError              a model cannot be fetched, loaded, recognized or run
     +-- StoreError                 a file of a run cannot be read or written, or files of a run contradict each other
     +-- ExportError                finished shards cannot be written in the requested format
     +-- PushError                  predictions cannot be sent to an annotation server
     +-- EvaluateError              finished shards cannot be compared with ground truth or annotations
     +-- RunError                   the job as a whole failed
          +-- CredentialsError      storage rejects the credentials
          +-- OutputInUseError      another job writes the output
          +-- RunInterrupted        the user stopped the job; finished shards are kept

The constructor of every class takes one message, so errors can be pickled between Ray processes.
"""

from __future__ import annotations

from collections.abc import Sequence


class PrelabelError(Exception):
    """Base class of all errors raised on purpose; the message is one line for the user."""


class ConfigError(PrelabelError):
    """An option, a job file or a combination of options is not allowed."""


class SourceError(PrelabelError):
    """Images cannot be listed, planned or fetched."""


class FetchError(SourceError):
    """The bytes of an image cannot be read from storage."""


class DecodeError(PrelabelError):
    """The bytes of an image cannot be decoded."""


class EmptyFileError(DecodeError):
    """The file has no bytes."""


class UnknownFormatError(DecodeError):
    """The file is not an image, or its format is not supported."""


class MissingCodecError(DecodeError):
    """The image format needs an extra that is not installed."""


class TruncatedImageError(DecodeError):
    """The end of the image data is missing."""


class CorruptImageError(DecodeError):
    """The content of the image violates its format."""


class ImageTooLargeError(DecodeError):
    """The image has more pixels, or the file more bytes, than the limit allows."""


class DetectorError(PrelabelError):
    """A model cannot be fetched, loaded, recognized or run."""


class StoreError(PrelabelError):
    """A file of a run cannot be read or written, or files of a run contradict each other."""


class ExportError(PrelabelError):
    """Finished shards cannot be written in the requested format."""


class PushError(PrelabelError):
    """Predictions cannot be sent to an annotation server, or the server changed them."""


class EvaluateError(PrelabelError):
    """Finished shards cannot be compared with ground truth or annotations."""


class RunError(PrelabelError):
    """The job as a whole failed."""


class CredentialsError(RunError):
    """Storage rejects the credentials, or there are none; the images are not at fault."""


class OutputInUseError(RunError):
    """Another job writes the output, or has taken it over."""


class RunInterrupted(RunError):  # noqa: N818 - an event rather than an error
    """The user stopped the job; finished shards are kept."""


def first_of(names: Sequence[str], most: int) -> str:
    """Up to `most` names, for a message: `cat, dog and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

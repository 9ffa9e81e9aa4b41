"""What can go wrong, as a tree. Catch `PrelabelError` for everything this package raises on purpose.

    PrelabelError
     +-- ConfigError           an option, a job file or a combination of options makes no sense (exit code 2)
     +-- SourceError           images cannot be listed, planned or fetched
     |    +-- FetchError       the bytes of one image cannot be had
     +-- DecodeError           the bytes of one image are no picture we can show
     |    +-- EmptyFileError       no bytes at all
     |    +-- UnknownFormatError   not an image, or a format nobody here reads
     |    +-- MissingCodecError    a known format whose reader is an extra that is not installed
     |    +-- TruncatedImageError  the end of the file is missing
     |    +-- CorruptImageError    the content contradicts the format
     |    +-- ImageTooLargeError   more pixels or bytes than allowed
     +-- DetectorError         a model cannot be fetched, loaded, recognised or run
     +-- StoreError            what was written cannot be read, does not fit, or cannot be written
     +-- ExportError           finished shards cannot be turned into the wanted format
     +-- PushError             predictions cannot be brought into an annotation server
     +-- EvaluateError         finished shards cannot be held against a truth
     +-- RunError              the job as a whole failed
          +-- CredentialsError   a store takes the credentials no longer, whatever is asked for
          +-- OutputInUseError   another job writes the output
          +-- RunInterrupted     somebody ended it; what was finished stays

Every class takes one message, so that it survives pickling between Ray processes.
"""


class PrelabelError(Exception):
    """Base of all errors raised on purpose; its text is one line fit to show to the user."""


class ConfigError(PrelabelError):
    """An option, a job file or a combination of options that makes no sense."""


class SourceError(PrelabelError):
    """Images cannot be listed, planned or fetched."""


class FetchError(SourceError):
    """The bytes of one image cannot be had from storage."""


class DecodeError(PrelabelError):
    """The bytes of one image cannot be turned into pixels."""


class EmptyFileError(DecodeError):
    """A file of zero bytes."""


class UnknownFormatError(DecodeError):
    """Bytes that no image reader recognises."""


class MissingCodecError(DecodeError):
    """A known image format whose reader comes with an extra that is not installed."""


class TruncatedImageError(DecodeError):
    """The end of the image's data is missing."""


class CorruptImageError(DecodeError):
    """An image whose content contradicts its format."""


class ImageTooLargeError(DecodeError):
    """An image with more pixels, or a file with more bytes, than the limit allows."""


class DetectorError(PrelabelError):
    """A model cannot be fetched, loaded, recognised or run."""


class StoreError(PrelabelError):
    """Something written earlier cannot be read or does not fit, or something cannot be written."""


class ExportError(PrelabelError):
    """Finished shards cannot be turned into the wanted format."""


class PushError(PrelabelError):
    """Predictions cannot be brought into an annotation server, or it did not take them as they were sent."""


class EvaluateError(PrelabelError):
    """Finished shards cannot be held against a truth."""


class RunError(PrelabelError):
    """The job as a whole failed."""


class CredentialsError(RunError):
    """A store takes the credentials no longer, or there are none: no image is to blame."""


class OutputInUseError(RunError):
    """Another job writes the output, or has taken it over."""


class RunInterrupted(RunError):  # noqa: N818 - what happened, no fault
    """The job was ended from outside; what was finished stays."""

"""One reader per format on disk; `read` picks it by name or recognises the folder."""

from lit_vision.data.formats.recognise import FORMATS, read, recognise

__all__ = ["FORMATS", "read", "recognise"]

"""One reader per format on disk; `read` picks it by name or recognises the folder."""

from lit_vision.data.formats.recognise import FORMATS, options_of_words, read, recognise

__all__ = ["FORMATS", "options_of_words", "read", "recognise"]

"""model.in_channels follows data.in_channels, so that a user says it once."""

from collections.abc import MutableMapping, Sequence
from typing import Any

from lit_vision.cli.experiment_files import Configs, setting
from lit_vision.errors import UserError


class ChannelLink:
    """The number of channels on its way from the data to the model."""

    def __init__(self) -> None:
        self.arguments: MutableMapping[str, Any] = {}
        self.given = False

    def read(self, args: Sequence[str], configs: Configs, arguments: MutableMapping[str, Any]) -> None:
        """Learns whether the user has set the model's channels: a default and an equal value look the same later.

        Args:
            args: words of the command line.
            configs: the experiment's files.
            arguments: the model's options as parsed.
        """
        said = any(word.startswith("--model") and "in_channels" in word for word in args)
        self.given = said or setting(configs, "model", "in_channels") is not None
        self.arguments = arguments

    def __call__(self, channels: int) -> int:
        """The data's channels.

        Raises:
            UserError: the user has set others for the model.
        """
        if "in_channels" in self.arguments:  # a task of the user's own may have none
            own = self.arguments["in_channels"]
            if self.given and own != channels:
                raise UserError(
                    f"model.in_channels is {own}, but data.in_channels is {channels}; "
                    "leave the model's out: it comes from the data"
                )
            self.arguments["in_channels"] = channels  # with which those of a checkpoint are compared
        return channels

"""The base of the models of answers, in which what is not there is left out."""

from typing import Final

from pydantic import BaseModel, ConfigDict, WithJsonSchema

OPEN: Final = WithJsonSchema({"type": "object"})


class Answer(BaseModel):
    """A tool's answer, or a part of one. Fields that are None are left out of the answer."""

    model_config = ConfigDict(defer_build=True)  # the program starts at once, and builds what a call needs

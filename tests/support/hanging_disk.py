"""The real worker on a disk that stands still while a file is there: `hanging_disk.py FILE FOLDER worker run …`.

Whatever opens, removes, renames, makes or lists something below the folder waits, on the thread that asks for it. Its
file is beside the folder.
"""

import os
import sys
import time
from pathlib import Path

from agentbus.cli import main

EVENTS = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}


def hang(flag: str, folder: str) -> None:
    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in EVENTS and args and isinstance(args[0], str | Path) and str(args[0]).startswith(folder):
            while os.access(flag, os.F_OK):
                time.sleep(0.02)

    sys.addaudithook(hook)


if __name__ == "__main__":
    hang(sys.argv.pop(1), sys.argv.pop(1))
    main()

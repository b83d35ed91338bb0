"""Finds the tests that need POSIX, by what they and the helpers that they call name in their code."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support.harness import ROOT

TESTS = ROOT / "tests"

MODULES = {"agentbus_worker", "fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
NAMES = {
    "SIGCONT", "SIGHUP", "SIGINT", "SIGKILL", "SIGSTOP", "SIGTERM", "SIGUSR1", "SIG_DFL", "SIG_IGN",
    "add_signal_handler", "AF_UNIX", "fork", "geteuid", "getgid", "getpgid", "getuid", "hardlink_to", "killpg",
    "mkfifo", "openpty", "pidfd_open", "pread", "set_blocking", "st_mode", "st_uid", "symlink_to", "terminate", "umask",
    "waitpid",
}  # fmt: skip
"""Names that Windows does not have, or that mean something else there.

A file has no mode, a link needs a privilege, and a process that is terminated cannot end in order.
"""
PATHS = ("/bin/", "/dev/", "/proc/", "/usr/", "#!/")
PROGRAMS = {"agentbus_worker", "bash", "sh", "launchctl", "systemctl"}


@cache
def posix_use(path: Path) -> dict[str, str]:
    """The tests of the module at `path` that need POSIX, each with the first reason, as a chain of names."""
    module = _Module.of(path)
    found = {name: module.reason(name) for name in module.definitions if name.startswith("test_")}
    return {name: reason for name, reason in found.items() if reason}


class _Module:
    """The module-level definitions of a file, and why each needs POSIX."""

    @staticmethod
    @cache
    def of(path: Path) -> "_Module":
        return _Module(path)

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, ast.AST] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self._known: dict[str, str | None] = {}
        self._path = path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for item in node.names:
                    self.imported[item.asname or item.name] = (node.module, item.name)
            elif isinstance(node, ast.Import):
                for item in node.names:
                    self.imported[item.asname or item.name.split(".")[0]] = (item.name, "")
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.definitions[target.id] = node

    def reason(self, name: str) -> str | None:
        """Why the definition `name` needs POSIX; None when nothing of the kind is found."""
        if name not in self._known:
            self._known[name] = None  # ends a circle
            self._known[name] = next(self._reasons(self.definitions[name], name), None)
        return self._known[name]

    def _reasons(self, definition: ast.AST, itself: str) -> Iterator[str]:
        for node in ast.walk(definition):
            match node:
                case ast.Constant(value=str(text)) if text.startswith(PATHS) or text in PROGRAMS:
                    yield repr(text[:40])
                case ast.Attribute(attr=attr) if attr in NAMES:
                    yield attr
                case ast.Attribute(value=ast.Name(id="os"), attr="kill"):
                    yield "os.kill"
                case ast.keyword(arg=str(arg)) if arg in NAMES:
                    yield arg
                case ast.Name(id=name) | ast.arg(arg=name) if name != itself:
                    yield from self._of_name(name)
                case _:
                    pass

    def _of_name(self, name: str) -> Iterator[str]:
        if name in self.definitions:
            inner = self.reason(name)
            if inner:
                yield f"{name}: {inner}"
        elif name in self.imported:
            module, item = self.imported[name]
            if module.split(".")[0] in MODULES:
                yield module
            path = TESTS / f"{module.replace('.', '/')}.py"
            if path != Path(__file__) and path.is_file() and item in _Module.of(path).definitions:
                inner = _Module.of(path).reason(item)
                if inner:
                    yield f"{item}: {inner}"

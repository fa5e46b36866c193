r"""Shell commands that only read, told word by word.

A command line is cut into simple commands the way a POSIX shell does it, quotes and all.  What a shell would run on the
side (substitutions, subshells, background jobs, here-documents) or write (redirections to anything but ``/dev/null``)
is not read any further: such a line counts as changing something.  So does a command that is not on the list, or an
option of one on the list that writes or runs something.

What it does not do: it expands nothing.  A word with an expansion in it could become any option, so commands that have
dangerous ones are not given the benefit of the doubt.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

_EXPANDED = "\0"
"""Stands before the ``$`` of an expansion; a literal one has none."""
_ENDS = frozenset(" \t\n;|&<>")
_UNREAD = frozenset("(){}`")
_SINKS = frozenset({"/dev/null"})


def line_reads(line: str) -> bool:
    """Tell whether running *line* in a shell only reads; False where that cannot be told."""
    if _EXPANDED in line:
        return False
    try:
        commands = [words for words in _Line(line).commands() if words]
    except ValueError:
        return False
    return bool(commands) and all(command_reads(words) for words in commands)


def command_reads(words: Sequence[str]) -> bool:
    """Tell whether running a simple command only reads; False where that cannot be told."""
    name, args = words[0], words[1:]
    check = _CHECKS.get(name)
    if check is None:
        return name in _READING
    return not any(_EXPANDED in arg for arg in args) and check(args)


class _Line:
    """A command line, read once from left to right; ``ValueError`` at what this module does not follow."""

    def __init__(self, line: str) -> None:
        self._line = line.replace("\\\n", "")
        self._at = 0

    def commands(self) -> list[list[str]]:
        """Return the words of each simple command."""
        commands: list[list[str]] = [[]]
        while self._at < len(self._line):
            char = self._line[self._at]
            if char in " \t":
                self._at += 1
            elif char == "#":
                self._skip_comment()
            elif char in "\n;":
                self._at += 1
                commands.append([])
            elif char == "|":
                self._at += 2 if self._line[self._at : self._at + 2] in {"||", "|&"} else 1
                commands.append([])
            elif char == "&" and self._line.startswith("&&", self._at):
                self._at += 2
                commands.append([])
            elif char in "<>" or self._line.startswith("&>", self._at):
                self._redirect()
            elif char == "&":
                raise ValueError("runs in the background")
            else:
                word = self._word()
                # "2>" and "2<": the number belongs to the redirection.
                if not (word.isdigit() and self._line[self._at : self._at + 1] in {"<", ">"}):
                    commands[-1].append(word)
        return commands

    def _skip_comment(self) -> None:
        end = self._line.find("\n", self._at)
        self._at = len(self._line) if end < 0 else end

    def _redirect(self) -> None:
        match = _REDIRECT.match(self._line, self._at)
        if match is None:
            raise ValueError("a redirection of another kind")
        self._at = match.end()
        if match["copy"]:
            return
        target = self._word()
        if not target or (match["sign"] != "<" and target not in _SINKS):
            raise ValueError("writes")

    def _word(self) -> str:
        made: list[str] = []
        while self._at < len(self._line) and self._line[self._at] not in _ENDS:
            char = self._line[self._at]
            if char in _UNREAD:
                raise ValueError("runs something on the side")
            if char == "'":
                end = self._line.index("'", self._at + 1)
                made.append(self._line[self._at + 1 : end])
                self._at = end + 1
            elif char == '"':
                made.append(self._double_quoted())
            elif char == "\\":
                made.append(self._line[self._at + 1 : self._at + 2])
                self._at += 2
            else:
                made.append(self._plain(char))
        return "".join(made)

    def _plain(self, char: str) -> str:
        self._at += 1
        if char != "$":
            return char
        if self._line[self._at : self._at + 1] in {"(", "{", "'", '"', "["}:
            raise ValueError("runs something on the side")
        return _EXPANDED + char

    def _double_quoted(self) -> str:
        made: list[str] = []
        self._at += 1
        while (char := self._line[self._at : self._at + 1]) != '"':
            if not char or char == "`":
                raise ValueError("an open quote, or a substitution")
            if char == "\\":
                escaped = self._line[self._at + 1 : self._at + 2]
                made.append(escaped if escaped in {"$", "`", '"', "\\"} else char + escaped)
                self._at += 2
            elif char == "$" and self._line[self._at + 1 : self._at + 2] in {'"', " ", "|", ")", "/"}:
                made.append(char)  # the end of a pattern
                self._at += 1
            else:
                made.append(self._plain(char))
        self._at += 1
        return "".join(made)


_REDIRECT = re.compile(r"(?P<sign>&>>?|>[>|]?|<(?![<(>&]))(?:(?P<copy>&[0-9-])(?![^\s;|&<>])|(?!&)[ \t]*)")

_READING = frozenset(
    "cat head tail more ls pwd cd echo wc grep egrep fgrep stat du df which type whoami uname id ps cut tr nl od hexdump "
    "strings diff cmp comm basename dirname realpath readlink column jq test true false sleep md5sum sha1sum sha256sum".split()
)

type Check = Callable[[Sequence[str]], bool]


def _without(pattern: str) -> Check:
    """Return a check that no argument is of a kind."""
    kind = re.compile(pattern, re.DOTALL)
    return lambda args: not any(kind.fullmatch(arg) for arg in args)


def _one_file(args: Sequence[str]) -> bool:
    """A second file would be written."""
    files = [arg for before, arg in zip(["", *args], args, strict=False) if not _is_value(before, arg)]
    return len(files) <= 1


def _is_value(before: str, arg: str) -> bool:
    return arg.startswith("-") or (before.startswith("-") and arg.isdigit())


def _date(args: Sequence[str]) -> bool:
    """Without a sign before it, a time would be set."""
    pairs = zip(["", *args], args, strict=False)
    return all(
        (arg.startswith(("+", "-")) or before in {"-d", "-r", "--date", "--reference"})
        and not arg.startswith(("-s", "--s"))
        for before, arg in pairs
    )


def _awk(args: Sequence[str]) -> bool:
    risky = re.compile(r"system|getline|[>|@]")
    return _without(r"-[A-Za-z]*[iflE].*|--.+")(args) and not any(risky.search(arg) for arg in args)


_SED_ADDRESS = r"(?:[0-9]+(?:~[0-9]+)?|\$|/(?:\\.|[^/\\\n])*/I?)"
_SED_SCRIPT = re.compile(
    rf"(?:\s*(?:{_SED_ADDRESS}(?:,(?:{_SED_ADDRESS}|\+[0-9]+))?\s*!?\s*)?"
    r"(?:[pdlgGhHxnNDP=]|[qQ][0-9]*|s(?P<d>[/|#,:@!%~])(?:\\.|(?!(?P=d))[^\\])*(?P=d)(?:\\.|(?!(?P=d))[^\\])*(?P=d)[gpiI0-9]*)?"
    r"\s*(?:;|$))*",
    re.DOTALL,
)


def _sed(args: Sequence[str]) -> bool:
    """Read the script: sed can write files and run programs from within it."""
    scripts: list[str] = []
    files: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if re.fullmatch(r"-[nErsuz]*e", arg) and rest:
            scripts.append(rest.pop(0))
        elif arg.startswith("--expression="):
            scripts.append(arg.partition("=")[2])
        elif arg.startswith("-") and not re.fullmatch(
            r"-[nErsuz]+|--quiet|--silent|--regexp-extended|--null-data|--", arg
        ):
            return False
        elif not arg.startswith("-"):
            files.append(arg)
    scripts = scripts or files[:1]
    return bool(scripts) and all(_SED_SCRIPT.fullmatch(script) for script in scripts)


_READING_GIT = frozenset(
    "status log diff show blame rev-parse rev-list ls-files ls-tree merge-base show-ref describe shortlog grep cat-file".split()
)
_GIT_CHANGING = re.compile(r"--ou.*|--op.*|-O.*|--ext-diff", re.DOTALL)
_BRANCH_FLAGS = re.compile(
    r"-[arvl]+|--(?:all|remotes|list|verbose|show-current|(?:no-)?(?:column|color|contains|merged)|points-at|sort|format|ignore-case)(?:=.*)?"
)
_BRANCH_LISTS = re.compile(r"-[arv]*l[arv]*|--(?:list|(?:no-)?(?:contains|merged)|points-at)(?:=.*)?")


def _git(args: Sequence[str]) -> bool:
    rest = list(args)
    while rest and rest[0].startswith("-"):
        if rest[0] not in {"--no-pager", "-P", "-C", "--no-optional-locks"}:
            return False
        del rest[: 2 if rest[0] == "-C" else 1]
    match rest:
        case ["branch", *more]:
            lists = any(_BRANCH_LISTS.fullmatch(arg) for arg in more)
            return all(_BRANCH_FLAGS.fullmatch(arg) if arg.startswith("-") else lists for arg in more)
        case ["remote"] | ["remote", "-v" | "--verbose"] | ["remote", "show" | "get-url", _]:
            return True
        case ["stash" | "worktree", "list", *_]:
            return True
        case [verb, *more]:
            return verb in _READING_GIT and not any(_GIT_CHANGING.fullmatch(arg) for arg in more)
        case _:
            return False


def _nothing(args: Iterable[str]) -> bool:
    return not list(args)


_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "ag": _without(r"--pager.*"),
        "awk": _awk,
        "date": _date,
        "env": _nothing,
        "fd": _without(r"-[A-Za-z]*[xX].*|--ex.*"),
        "file": _without(r"-[A-Za-z]*C.*|--co.*"),
        "find": _without(r"-(?:delete|exec|execdir|ok|okdir|fprint.*|fls)"),
        "git": _git,
        "hostname": _without(r"[^-].*|-[A-Za-z]*[Fb].*|--file.*|--boot"),
        "less": _without(r"-[A-Za-z]*[oO].*|--(?i:log).*|\+.*"),
        "printenv": _without(r"-.*"),
        "printf": _without(r"-v.*"),
        "rg": _without(r"--pre.*|--hostname-bin.*"),
        "sed": _sed,
        "sort": _without(r"-[A-Za-z]*o.*|--o.*|--co.*"),
        "tree": _without(r"-[A-Za-z]*o.*"),
        "uniq": _one_file,
        "xxd": _one_file,
        "yq": _without(r"-[A-Za-z]*[is].*|--in.*|--sp.*"),
    }
)
"""Commands that read, given the right arguments."""

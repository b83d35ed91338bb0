"""Every error that agentbus raises on purpose: one tree, each message written for the person who has to act on it.

AgentBusError
├── ConfigError                 a configuration file, an option or a URL cannot be used as it stands
├── InvalidIdError              an agent id, task id or stream name that the protocol does not allow
├── MessageError                bytes that are not a valid task or result
├── ArgumentError               an argument of a call that fits its type, but cannot be used here
├── TaskConflictError           the task id is taken by a task with other content
│   └── QuestionAnsweredError   a question that was answered otherwise before, or by another party
├── TaskNotFoundError           no ledger entry has this task id
├── NotSettledError             a task that has no result yet, where one is needed
│   └── ResultTimeoutError      no result within the time that the caller gave
├── NoApprovalPendingError      an answer to a task that does not wait for an approval
│   └── NoQuestionError         an answer to a question that a task does not ask, or not any more
├── CannotContinueError         a task that goes on with no conversation: there is none, or it must not
├── TaskContentMissingError     a task whose content the bus does not hold any more
├── OutputNotKeptError          an output of which the bus holds only the beginning
├── OutputCutError              an output of which only a part could be read and printed
├── WorkError                   the work of a task cannot be taken, or files cannot be sent with one
├── RequeueError                a dead letter that cannot be published as a task again
├── UnsupportedPlatformError    this part of agentbus does not run on this operating system
├── StandardStreamError      standard input or output is closed, or cannot be read or written
├── ServerBinaryError           no nats-server executable, or it did not come up
├── AssetError                  a file that comes with agentbus is missing from this installation
├── HostError                   the MCP server's entry cannot be put into the file of an MCP host
├── SkillError                  the Agent Skill cannot be copied to where agent hosts look for it
├── PluginError                 the plugin for agent hosts cannot be written where it was to be
├── ServiceError                a service manager is not there, or refuses
├── CommandError                the agent command could not be started
│   ├── MachineFaultError       for a reason that lies in the machine, and not in the task
│   └── WorkspaceError          its repository, or what it brings, could not be made ready
├── GitError                    a git command failed, or did not end in time
│   ├── GitMissingError         there is no git on this machine
│   └── GitTooLargeError        a git command has printed more than is taken
├── NotDeliveredError           a notification was not taken where it was sent
├── LeaseLostError              another worker has the task; nothing more may be sent for it
├── DemoError                   a step of `agentbus demo` went wrong
├── FakeAgentError              the worker of a fake agent of `agentbus.testing` did not start
└── BusError                    something between this process and the bus
    ├── BusUnavailableError     not reachable, connection lost, or no answer in time
    │   └── NoRespondersError   no subscriber to the subject (yet)
    ├── AuthenticationError     the server refused the credentials
    ├── PermissionDeniedError   the credentials do not allow this subject
    ├── SetupMissingError       a stream, bucket or consumer does not exist
    ├── StreamFullError         a stream has reached its limit and refuses new messages
    ├── ConsumerLimitError      a stream has as many readers as it may have
    ├── TooLargeError           a message over the limit; nothing was sent
    ├── WrongRevisionError      a compare-and-set was refused: the key was written meanwhile
    ├── FileMissingError        a stored output that is not (or no longer) there
    ├── CorruptFileError        a stored output that is not what was stored
    ├── DeadLetterMissingError  no dead letter with this number
    ├── ConsumerMissingError    no consumer of this name
    ├── CorruptEntryError       a ledger entry that cannot be read
    ├── MalformedAnswerError    an answer of JetStream that agentbus cannot read
    ├── IncompatibleClientError the installed nats-py is not one that agentbus can use safely
    └── ApiError                any other refusal by JetStream, with its codes
"""

from datetime import datetime


class AgentBusError(Exception):
    """Root of all errors that agentbus raises on purpose."""


class ConfigError(AgentBusError):
    """A configuration file, an option or a URL cannot be used as it stands."""


class InvalidIdError(AgentBusError):
    """An agent id, task id or stream name that the protocol does not allow."""


class MessageError(AgentBusError):
    """Bytes or values that are not a valid task or result."""


class ArgumentError(AgentBusError):
    """An argument of a call that fits its type, but cannot be used here."""


class TaskConflictError(AgentBusError):
    """The task id is taken by a task with other content."""


class QuestionAnsweredError(TaskConflictError):
    """The question has an answer already: the first one counts. The message says whose it is."""


class TaskNotFoundError(AgentBusError):
    """No ledger entry has this task id."""


class NotSettledError(AgentBusError):
    """The task has no result yet, and the operation needs one."""


class ResultTimeoutError(NotSettledError):
    """The task has no result within the time that the caller gave; the task goes on."""


class NoApprovalPendingError(AgentBusError):
    """The task does not wait for an approval."""


class NoQuestionError(NoApprovalPendingError):
    """The task does not ask this question, or not any more; nothing was stored."""


class CannotContinueError(AgentBusError):
    """No task can go on with the conversation of this one; the message says why."""


class TaskContentMissingError(AgentBusError):
    """The bus does not hold the whole content of the task any more, so that it cannot be repeated or answered."""


class OutputNotKeptError(AgentBusError):
    """The bus holds only the beginning of an output: its worker was not allowed to keep more, or could not."""


class OutputCutError(AgentBusError):
    """The task is completed, and what was printed of its output is not whole: the bus lost it, or is away."""


class WorkError(AgentBusError):
    """The work of a task cannot be taken as things stand, or files cannot be sent with one; says what to do."""


class RequeueError(AgentBusError):
    """The dead letter cannot be published as a task again: a part of it is lost, or the task has its result."""


class UnsupportedPlatformError(AgentBusError):
    """This part of agentbus does not run on this operating system; the message says what does."""


class StandardStreamError(AgentBusError):
    """Standard input or output is closed, or cannot be read or written to."""


class ServerBinaryError(AgentBusError):
    """No nats-server executable was found, or it did not come up."""


class AssetError(AgentBusError):
    """A file that comes with agentbus is missing from this installation."""


class HostError(AgentBusError):
    """The MCP server's entry cannot be put into the file of an MCP host."""


class SkillError(AgentBusError):
    """The Agent Skill cannot be copied to where agent hosts look for it."""


class PluginError(AgentBusError):
    """The plugin for agent hosts cannot be written where it was to be."""


class ServiceError(AgentBusError):
    """A service manager is not there, or refuses."""


class CommandError(AgentBusError):
    """The agent command could not be started; the message says why."""


class MachineFaultError(CommandError):
    """The agent command could not be started, for a reason that lies in the machine and may pass: not in the task."""


class WorkspaceError(CommandError):
    """The repository or the files of a task could not be made ready; the message names what has to be put right."""


class GitError(AgentBusError):
    """A git command failed, or did not end in time; the message has what git said.

    Attributes:
        code: its exit code; None of one that was ended, or did not start.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class GitMissingError(GitError):
    """There is no git on this machine."""


class GitTooLargeError(GitError):
    """A git command has printed more than is taken; it was ended."""


class NotDeliveredError(AgentBusError):
    """A notification was not taken where it was sent."""


class LeaseLostError(AgentBusError):
    """Another worker has the task now: drop its outcome, and send nothing more for it."""


class DemoError(AgentBusError):
    """A step of `agentbus demo` went wrong."""


class FakeAgentError(AgentBusError):
    """The worker of a fake agent of `agentbus.testing` did not start."""


class BusError(AgentBusError):
    """Something between this process and the bus."""


class BusUnavailableError(BusError):
    """The bus cannot be reached, the connection was lost, or an answer did not come in time.

    What was sent may or may not have been stored: repeat it under the same message id.
    """


class NoRespondersError(BusUnavailableError):
    """There is no subscriber to the subject: no stream takes it, or JetStream is not up (yet)."""


class AuthenticationError(BusError):
    """The server refused the credentials."""


class PermissionDeniedError(BusError):
    """The credentials do not allow this subject.

    Attributes:
        subject: the subject that was refused, as the server reported it (lower case).
    """

    def __init__(self, message: str, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject


class SetupMissingError(BusError):
    """A stream, bucket or consumer does not exist; the message names the command that makes it."""


class StreamFullError(BusError):
    """A stream has reached its limit and refuses new messages; nothing was stored."""


class ConsumerLimitError(BusError):
    """A stream has as many consumers as it may have; each list, wait and watch takes one for a while."""


class TooLargeError(BusError):
    """A message is larger than the server takes; nothing was sent."""


class WrongRevisionError(BusError):
    """A compare-and-set was refused: the key has changed since it was read.

    Attributes:
        revision: what the key had when it was refused, by the word of the server that decides; 0 where it told none.
    """

    def __init__(self, message: str, *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class FileMissingError(BusError):
    """A stored output that is not there, or no longer whole."""


class CorruptFileError(BusError):
    """A stored output whose content is not what was stored."""


class DeadLetterMissingError(BusError):
    """No dead letter has this number."""


class ConsumerMissingError(BusError):
    """No consumer of this name."""


class CorruptEntryError(BusError):
    """A ledger entry that cannot be read: empty, not JSON, out of bounds, or relayed from elsewhere.

    Attributes:
        revision: what a compare-and-set that replaces it must expect; 0 where it is not known.
        changed_at: when it was stored, by the server's clock; None where it is not known.
    """

    def __init__(self, message: str, *, revision: int = 0, changed_at: datetime | None = None) -> None:
        super().__init__(message)
        self.revision = revision
        self.changed_at = changed_at


class MalformedAnswerError(BusError):
    """An answer of JetStream lacks a field that agentbus reads, or has another type in it.

    Either the server is not nats-server, or it is a version that agentbus does not know.
    """


class IncompatibleClientError(BusError):
    """The installed nats-py lacks a part that agentbus relies on, or has it in another shape; nothing was dialled.

    Attributes:
        name: the part, such as `Client._connect_command`.
    """

    def __init__(self, name: str, what: str, tested: str) -> None:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # costs more than all the rest

        try:
            installed = version("nats-py")
        except PackageNotFoundError:
            installed = "(not installed)"
        super().__init__(
            f"nats-py {installed} cannot be used: {name} {what}. Nothing was sent. Install the version that agentbus "
            f"was tested with: pip install '{tested}'"
        )
        self.name = name


class ApiError(BusError):
    """JetStream refused a request.

    Attributes:
        code: HTTP-like status (400, 404, 503, ...).
        err_code: JetStream's own error number (10058 and the like), 0 when it gave none.
    """

    def __init__(self, description: str, code: int = 0, err_code: int = 0) -> None:
        super().__init__(f"JetStream refused: {description} (code {code}, error {err_code})")
        self.description = description
        self.code = code
        self.err_code = err_code

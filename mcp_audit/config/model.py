"""Every setting: its key, type, range, default and meaning, as frozen structs.

The JSON Schema, the masking of secrets, the error sentences and the reference all come from these types, so a fact
about a key is written here once; one table, kept whole although it is long. What two keys say about each other is in
`contradictions`. Nothing here reads a file or the environment.
"""

# No postponed annotations here: they would be compiled again, one by one, by everybody who asks for a field's type,
# which takes longer than all the rest of loading a configuration.
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

__all__ = [
    "Async",
    "Audit",
    "Auth",
    "Bridge",
    "ClientToken",
    "Condition",
    "Config",
    "Dashboard",
    "DashboardAuth",
    "ExportRetry",
    "Log",
    "Metrics",
    "Middleware",
    "OAuth",
    "Otel",
    "Policy",
    "Proxy",
    "RateLimit",
    "Redact",
    "Retry",
    "Rotation",
    "Rule",
    "Section",
    "SinkSpec",
    "Tls",
    "ToolLimit",
    "UpstreamTls",
]

Port = Annotated[int, Meta(ge=0, le=65535)]
Ms = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1)]
Secret = Annotated[str, Meta(extra={"secret": True}, extra_json_schema={"writeOnly": True})]
_ORIGIN = {"allowed": "1 to 200 of A-Z a-z 0-9 . _ - /"}
# What is not a digest here may well be the token itself.
_DIGEST = {"allowed": "the 64 hex digits of the token's SHA-256", "secret": True}
_POINTER = {"allowed": "a JSON Pointer such as /path or /options/0/name"}


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: compared by value, and printed without the values of secrets."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'<hidden>' if value and name in _HIDDEN else repr(value)}"
            for name, value in ((name, getattr(self, name)) for name in self.__struct_fields__)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


# The names of the fields of type `Secret`, here because `repr` must not depend on reading annotations.
_HIDDEN = frozenset({"secret", "token", "headers"})


class Tls(Section, frozen=True, kw_only=True):
    """How an HTTPS peer is verified."""

    ca_file: Annotated[str, Meta(description="CA bundle to verify with; empty: the system's")] = ""
    server_name: Annotated[str, Meta(description="name to verify instead of the host in the URL")] = ""
    insecure_skip_verify: Annotated[bool, Meta(description="do not verify at all; for local tests only")] = False


class UpstreamTls(Tls, frozen=True, kw_only=True):
    """How an HTTPS upstream is verified, and who we are towards it."""

    client_cert_file: Annotated[str, Meta(description="our certificate for mTLS; needs client_key_file")] = ""
    client_key_file: Annotated[str, Meta(description="our key for mTLS; needs client_cert_file")] = ""


class Retry(Section, frozen=True, kw_only=True):
    """Repeated attempts at requests that are safe to repeat; `tools/call` never is."""

    max_retries: Annotated[int, Meta(ge=0, le=100, description="attempts after the first; 0: never retry")] = 0
    initial_interval_ms: Annotated[Ms, Meta(description="pause before the first retry, doubled each time")] = 200
    max_interval_ms: Annotated[Ms, Meta(description="longest pause between two attempts")] = 2000


class ExportRetry(Retry, frozen=True, kw_only=True):
    """Repeated attempts at exports; unlike calls they are safe to repeat."""

    max_retries: Annotated[int, Meta(ge=0, le=100, description="attempts after the first; 0: never retry")] = 3


class ClientToken(Section, frozen=True, kw_only=True):
    """One bearer token that clients of the HTTP listener may present; `mcp-audit keygen --token NAME` makes one."""

    name: Annotated[Name, Meta(description="becomes client_id in the record")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", extra=_DIGEST, description="SHA-256 of the token, in hex")]


class Auth(Section, frozen=True, kw_only=True):
    """Who may use the HTTP listener."""

    tokens: Annotated[
        tuple[ClientToken, ...],
        Meta(description="bearer tokens of clients, sent in Authorization, which then is ours; empty: none asked"),
    ] = ()


class OAuth(Section, frozen=True, kw_only=True):
    """Help for OAuth discovery through the reverse proxy."""

    rewrite_metadata: Annotated[
        bool, Meta(description="put public_url in place of the upstream's origin in resource metadata")
    ] = False


class Bridge(Section, frozen=True, kw_only=True):
    """A stdio client towards an HTTP upstream; opt-in, and not transparent."""

    headers: Annotated[
        dict[str, Secret],
        Meta(description="headers to add to requests, such as Authorization; ${ENV} and ${file:PATH}"),
    ] = {}


class Log(Section, frozen=True, kw_only=True):
    """Our own messages on stderr."""

    level: Annotated[
        Literal["auto", "debug", "info", "warn", "error"],
        Meta(description="least severity shown; auto: info on a terminal and over HTTP, else warn"),
    ] = "auto"
    format: Annotated[Literal["text", "json"], Meta(description="one sentence, or one JSON object per line")] = "text"


class Proxy(Section, frozen=True, kw_only=True):
    """The two ends and how bytes get from one to the other."""

    transport: Annotated[Literal["stdio", "http"], Meta(description="what the client speaks")] = "stdio"
    upstream: Annotated[
        str, Meta(description="the server: a command, or a URL; required unless a command follows `--`")
    ] = ""
    port: Annotated[Port, Meta(description="HTTP: listening port; 0: any free one")] = 4422
    upstream_timeout_ms: Annotated[
        Ms, Meta(description="HTTP: from connect to response headers; 0: off. Past it the client gets a 504")
    ] = 30000
    forward_headers: Annotated[
        tuple[Name, ...],
        Meta(description="HTTP: [Authorization] for an upstream with bearer tokens; else it is stripped"),
    ] = ()
    tls: Annotated[UpstreamTls, Meta(description="HTTPS towards the upstream")] = UpstreamTls()
    retry: Annotated[Retry, Meta(description="HTTP: retries of safe requests")] = Retry()
    client_id: Annotated[Name, Meta(description="a fixed name, or auto: what the client claims")] = "auto"
    server_id: Annotated[
        Name, Meta(description="a fixed name, or auto: what the server claims, before that the program or host")
    ] = "auto"
    shell: Annotated[bool, Meta(description="hand the command to `sh -c`; not with a command after `--`")] = False
    bind_address: Annotated[Name, Meta(description="HTTP: listening address")] = "127.0.0.1"
    public_url: Annotated[str, Meta(description="HTTP: the address clients use, path prefix included")] = ""
    allowed_hosts: Annotated[
        tuple[Name, ...], Meta(description="HTTP: Host names that pass beside loopback names and public_url")
    ] = ()
    allowed_origins: Annotated[
        tuple[Name, ...], Meta(description="HTTP: Origins that pass beside loopback ones and public_url")
    ] = ()
    auth: Annotated[Auth, Meta(description="HTTP: who may use the listener")] = Auth()
    max_message_bytes: Annotated[Positive, Meta(description="largest line, body or event, terminator not counted")] = (
        67108864
    )
    call_timeout_ms: Annotated[Ms, Meta(description="longest wait for an answer; 0: for ever")] = 0
    shutdown_grace_ms: Annotated[Ms, Meta(description="stdio: from the signal to SIGKILL for the upstream")] = 1500
    drain_timeout_ms: Annotated[Ms, Meta(description="HTTP: how long requests may finish at shutdown")] = 15000
    http_mode: Annotated[
        Literal["reverse", "forward"],
        Meta(description="reverse: clients use our address; forward: HTTP_PROXY names us"),
    ] = "reverse"
    forward_hosts: Annotated[
        tuple[Name, ...], Meta(description="forward mode: hosts relayed unexamined, such as authorization servers")
    ] = ()
    oauth: Annotated[OAuth, Meta(description="OAuth through the reverse proxy")] = OAuth()
    workers: Annotated[int, Meta(ge=1, le=256, description="HTTP: processes on one port")] = 1
    bridge: Annotated[Bridge, Meta(description="a stdio client to a URL")] = Bridge()
    log: Annotated[Log, Meta(description="our own messages on stderr")] = Log()


class Async(Section, frozen=True, kw_only=True):
    """The writer's queue. No message ever overtakes its record, whatever is set here."""

    enabled: Annotated[bool, Meta(description="only sets the `mode` label of the metrics")] = False
    queue_size: Annotated[Positive, Meta(description="entries that may wait for the writer")] = 4096
    batch_size: Annotated[Positive, Meta(description="entries per write")] = 128
    flush_interval_ms: Annotated[Ms, Meta(description="read and unused: group commit needs no timer")] = 1000


class Rotation(Section, frozen=True, kw_only=True):
    """When a JSONL ledger starts a new file, and which old ones go. All triggers act after an append, in UTC."""

    max_size_bytes: Annotated[Count, Meta(description="rotate above this size; 0: off")] = 0
    interval: Annotated[Literal["", "hourly", "daily"], Meta(description="rotate by time; empty: off")] = ""
    max_files: Annotated[Count, Meta(description="archives to keep; 0: all")] = 0
    max_age_days: Annotated[Count, Meta(description="age since rotation at which an archive goes; 0: never")] = 0
    compress: Annotated[Literal["none", "gzip"], Meta(description="what happens to archives")] = "none"


class Audit(Section, frozen=True, kw_only=True):
    """The ledger."""

    storage: Annotated[Literal["jsonl", "sqlite"], Meta(description="kind of ledger")] = "jsonl"
    path: Annotated[Name, Meta(description="the JSONL ledger")] = "./audit.jsonl"
    sqlite_path: Annotated[Name, Meta(description="the SQLite ledger")] = "./audit.db"
    sign: Annotated[
        bool, Meta(description="write `signature` where there is a secret; `mac` is written regardless")
    ] = True
    secret: Annotated[
        Secret,
        Meta(description="32 bytes or more; AUDIT_SECRET and AUDIT_SECRET_FILE come first; ${ENV} and ${file:PATH}"),
    ] = ""
    async_: Annotated[Async, Meta(description="the writer's queue")] = field(default=Async(), name="async")
    rotation: Annotated[Rotation, Meta(description="new files and retention")] = Rotation()
    origin: Annotated[
        str,
        Meta(pattern="^[A-Za-z0-9._/-]{0,200}$", extra=_ORIGIN, description="the log's name; empty: made at first use"),
    ] = ""
    signing_key: Annotated[str, Meta(description="file of the Ed25519 log key; empty: <log>.key")] = ""
    write_ahead: Annotated[
        Literal["tools_call", "all", "none"], Meta(description="which requests get a line before they are forwarded")
    ] = "tools_call"
    durability: Annotated[
        Literal["write", "fsync"], Meta(description="write: survives kill -9; fsync: power loss, too")
    ] = "write"
    on_failure: Annotated[
        Literal["fail_operation", "continue", "shutdown"],
        Meta(description="what happens while the ledger takes nothing"),
    ] = "fail_operation"
    block_timeout_ms: Annotated[Ms, Meta(description="how long an answer waits for a failing ledger")] = 5000
    checkpoint_interval_ms: Annotated[
        int, Meta(ge=10, le=2_147_483_647, description="least time between two signed checkpoints")
    ] = 1000
    max_payload_bytes: Annotated[
        int, Meta(ge=1024, description="larger payloads become a size and a commitment in the record")
    ] = 1048576
    capture: Annotated[
        Literal["redacted", "full", "digest"],
        Meta(description="payloads in the record: redacted, as relayed, or only sizes and commitments"),
    ] = "redacted"
    allow_network_fs: Annotated[bool, Meta(description="accept SQLite on a network filesystem")] = False


class ToolLimit(Section, frozen=True, kw_only=True):
    """The limit of one tool, or of all whose name fits a glob."""

    requests_per_minute: Annotated[Positive, Meta(description="calls per minute on average")]
    burst: Annotated[Count, Meta(description="calls at once; 0: as many as requests_per_minute")] = 0


class RateLimit(Section, frozen=True, kw_only=True):
    """A token bucket per client and tool."""

    enabled: Annotated[bool, Meta(description="deny calls above the limit")] = True
    requests_per_minute: Annotated[Positive, Meta(description="calls per minute, per client and tool")] = 60
    burst: Annotated[Count, Meta(description="calls at once; 0: as many as requests_per_minute")] = 0
    tools: Annotated[
        dict[str, ToolLimit], Meta(description="tool name or glob: its own limit; the first that fits counts")
    ] = {}


class Redact(Section, frozen=True, kw_only=True):
    """What the record hides. Relayed bytes are never touched."""

    enabled: Annotated[bool, Meta(description="hide secrets in the record")] = True
    patterns: Annotated[
        tuple[Name, ...], Meta(description="parts of keys whose values are hidden, any case; a list replaces this one")
    ] = (
        "password",
        "token",
        "secret",
        "api_key",
        "bearer",
        "authorization",
        "cookie",
        "private_key",
        "access_key",
        "passphrase",
        "credential",
    )
    allow: Annotated[tuple[Name, ...], Meta(description="exact keys that no pattern hides")] = (
        "progressToken",
        "max_tokens",
        "maxTokens",
        "input_tokens",
        "output_tokens",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "io.mcp-audit/credential",
    )
    values: Annotated[bool, Meta(description="also hide known shapes of secrets inside strings")] = True
    nested_json: Annotated[bool, Meta(description="also look into JSON inside strings")] = True


class Middleware(Section, frozen=True, kw_only=True):
    """The chain every message meets, beside the policy."""

    rate_limit: Annotated[RateLimit, Meta(description="calls per minute")] = RateLimit()
    redact: Annotated[Redact, Meta(description="what the record hides")] = Redact()
    gates: Annotated[tuple[Name, ...], Meta(description="plugins that may deny, after the built-in gates")] = ()
    processors: Annotated[tuple[Name, ...], Meta(description="plugins that shape the record")] = ()


class Condition(Section, frozen=True, kw_only=True, omit_defaults=True):
    """What one argument must be for a rule to match; all that are given must hold."""

    equals: Annotated[Any | UnsetType, Meta(description="this JSON value")] = UNSET
    in_: Annotated[tuple[Any, ...] | UnsetType, Meta(description="one of these JSON values")] = field(
        default=UNSET, name="in"
    )
    glob: Annotated[str | UnsetType, Meta(description="a string that fits this glob")] = UNSET
    regex: Annotated[str | UnsetType, Meta(description="a string in which this expression is found")] = UNSET
    min: Annotated[int | float | UnsetType, Meta(description="a number not below this")] = UNSET
    max: Annotated[int | float | UnsetType, Meta(description="a number not above this")] = UNSET
    exists: Annotated[bool | UnsetType, Meta(description="whether the argument is there at all")] = UNSET


class Rule(Section, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the policy; empty fields and `*` match anything, the first rule that matches decides.

    It is about `tools/call` unless it names another method, a prompt or a resource.
    """

    action: Annotated[Literal["allow", "deny"], Meta(description="what happens to a matching message")]
    client_id: Annotated[str, Meta(description="glob")] = ""
    server_id: Annotated[str, Meta(description="glob")] = ""
    tool_name: Annotated[str, Meta(description="glob")] = ""
    reason: Annotated[str, Meta(description="told to the client and recorded")] = ""
    method: Annotated[str, Meta(description="a JSON-RPC method other than tools/call")] = ""
    prompt: Annotated[str, Meta(description="glob over prompt names")] = ""
    resource: Annotated[str, Meta(description="glob over resource uris")] = ""
    args: Annotated[
        dict[Annotated[str, Meta(pattern="^(/.*)?$", extra=_POINTER)], Condition],
        Meta(description="JSON Pointer into the arguments: what must be there"),
    ] = {}
    when: Annotated[str, Meta(description="CEL expression; needs the extra `policy`")] = ""
    mode: Annotated[
        Literal["enforce", "shadow"], Meta(description="shadow: record what the rule would have decided")
    ] = "enforce"


class Policy(Section, frozen=True, kw_only=True):
    """Which calls are allowed."""

    enabled: Annotated[bool, Meta(description="decide by the rules; without this they do nothing")] = False
    default_action: Annotated[Literal["allow", "deny"], Meta(description="for calls that no rule matches")] = "allow"
    rules: Annotated[tuple[Rule, ...], Meta(description="in order; the first that matches decides")] = ()
    file: Annotated[str, Meta(description="a file with these keys, beside which they are not given here")] = ""
    deny_as: Annotated[
        Literal["error", "tool_error"], Meta(description="a JSON-RPC error, or isError content that the model can read")
    ] = "error"
    filter_lists: Annotated[
        bool, Meta(description="also hide denied tools, prompts and resources in lists; rewrites answers")
    ] = False
    on_tool_change: Annotated[
        Literal["record", "warn", "deny"], Meta(description="when a tool's definition differs from the one first seen")
    ] = "record"


class DashboardAuth(Section, frozen=True, kw_only=True):
    """Who may read the dashboard."""

    token: Annotated[
        Secret, Meta(description="bearer token; empty on loopback: one is made and logged; ${ENV} and ${file:PATH}")
    ] = ""
    required: Annotated[bool, Meta(description="false, only on loopback: open to every local user")] = True


class Dashboard(Section, frozen=True, kw_only=True):
    """The read-only web page over the ledger."""

    enabled: Annotated[bool, Meta(description="serve it")] = True
    bind_address: Annotated[Name, Meta(description="listening address; a token is a must on any but loopback")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="listening port; the next free one if taken in stdio mode")] = 9090
    auth: Annotated[DashboardAuth, Meta(description="who may read it")] = DashboardAuth()
    allowed_hosts: Annotated[tuple[Name, ...], Meta(description="Host names that pass beside loopback names")] = ()


class Metrics(Section, frozen=True, kw_only=True):
    """Prometheus metrics, health and readiness."""

    enabled: Annotated[bool, Meta(description="serve metrics")] = True
    port: Annotated[Port, Meta(description="listening port; the next free one if taken in stdio mode")] = 9091
    path: Annotated[
        str, Meta(pattern=r"^/[^?#\s]*$", extra={"allowed": "a path that begins with /"}, description="URL path")
    ] = "/metrics"
    include_go_metrics: Annotated[
        bool, Meta(description="runtime metrics, of Python here; also spelled include_python_metrics")
    ] = True
    include_process_metrics: Annotated[bool, Meta(description="memory, CPU and descriptors of the process")] = True
    tool_labels: Annotated[bool, Meta(description="tool_name and client_id as labels")] = True
    bind_address: Annotated[Name, Meta(description="listening address")] = "127.0.0.1"
    allowed_hosts: Annotated[
        tuple[Name, ...], Meta(description="Host names that pass beside loopback; elsewhere unchecked while empty")
    ] = ()
    max_tools: Annotated[Count, Meta(description="tool names beyond this many become `other`")] = 200
    file_sd: Annotated[str, Meta(description="folder for a Prometheus target file per running proxy; empty: none")] = ""


class Otel(Section, frozen=True, kw_only=True):
    """OpenTelemetry over OTLP/HTTP, in the background."""

    enabled: Annotated[bool, Meta(description="export spans")] = False
    endpoint: Annotated[Name, Meta(description="base URL; /v1/traces is appended")] = "http://localhost:4318"
    service_name: Annotated[Name, Meta(description="resource attribute service.name")] = "mcp-audit"
    headers: Annotated[
        dict[str, Secret], Meta(description="headers to add, such as an API key; ${ENV} and ${file:PATH}")
    ] = {}
    tls: Annotated[Tls, Meta(description="HTTPS towards the endpoint")] = Tls()
    retry: Annotated[ExportRetry, Meta(description="retries of failed exports")] = ExportRetry()
    queue_size: Annotated[Positive, Meta(description="entries that may wait; beyond it spans are dropped")] = 1024
    batch_size: Annotated[Positive, Meta(description="spans per request")] = 64
    flush_interval_ms: Annotated[Ms, Meta(description="longest wait of a partial batch")] = 1000
    timeout_ms: Annotated[Ms, Meta(description="longest wait for the endpoint")] = 5000
    methods: Annotated[tuple[Name, ...], Meta(description='whose exchanges become spans; ["*"]: all')] = ("tools/call",)
    payloads: Annotated[bool, Meta(description="arguments and results on spans, after redaction")] = False
    propagate: Annotated[bool, Meta(description="our span id in an existing traceparent; rewrites the message")] = False
    metrics: Annotated[bool, Meta(description="the conventions' histograms over OTLP")] = False


class SinkSpec(Section, frozen=True, kw_only=True):
    """A place entries go to beside the ledger."""

    type: Annotated[Name, Meta(description="otlp_logs, or the entry-point name of a plugin")]


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration of the proxy."""

    proxy: Annotated[Proxy, Meta(description="the two ends")] = Proxy()
    audit: Annotated[Audit, Meta(description="the ledger")] = Audit()
    middleware: Annotated[Middleware, Meta(description="rate limit and redaction")] = Middleware()
    policy: Annotated[Policy, Meta(description="which calls are allowed")] = Policy()
    dashboard: Annotated[Dashboard, Meta(description="the read-only web page")] = Dashboard()
    metrics: Annotated[Metrics, Meta(description="Prometheus, health and readiness")] = Metrics()
    otel: Annotated[Otel, Meta(description="OpenTelemetry")] = Otel()
    sinks: Annotated[
        tuple[SinkSpec | str, ...], Meta(description="places beside the ledger: {type: otlp_logs}, or a plugin's name")
    ] = ()

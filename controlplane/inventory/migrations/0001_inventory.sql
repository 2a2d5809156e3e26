-- Times are nanoseconds since 1970 (UTC); 0 means never. Identities are 32
-- hexadecimal digits. What a machine reports is kept as it came (JSON).

CREATE TABLE policies (
    name          TEXT    PRIMARY KEY,
    rpo_target_ms INTEGER NOT NULL CHECK (rpo_target_ms > 0),
    retention     TEXT    NOT NULL,
    throttle      TEXT    NOT NULL,
    changed_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE machines (
    id          TEXT    PRIMARY KEY,
    hostname    TEXT    NOT NULL,
    policy      TEXT    NOT NULL REFERENCES policies (name),
    enrolled_at INTEGER NOT NULL,
    generation  INTEGER NOT NULL DEFAULT 1,  -- grows with every change to what is wanted
    resync      INTEGER NOT NULL DEFAULT 0,  -- the newest resync asked for
    instance    TEXT    NOT NULL DEFAULT '', -- the agent process that speaks for the machine
    reported_at INTEGER NOT NULL DEFAULT 0,  -- by our clock
    report      TEXT    NOT NULL DEFAULT '{}',
    state       TEXT    NOT NULL,            -- as last derived, to notice transitions
    state_since INTEGER NOT NULL
) STRICT;
CREATE INDEX machines_by_hostname ON machines (hostname);

-- Agent processes that once spoke for a machine, in the order of their first report:
-- one that comes back after another took over is a second agent with one identity.
CREATE TABLE instances (
    id       INTEGER PRIMARY KEY,
    machine  TEXT    NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    instance TEXT    NOT NULL,
    back_at  INTEGER NOT NULL DEFAULT 0, -- when it was first heard after another had taken over
    told_at  INTEGER NOT NULL DEFAULT 0, -- when the operator was told of it
    UNIQUE (machine, instance)
) STRICT;

CREATE TABLE disks (
    machine      TEXT    NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    id           TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    path         TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    sector_size  INTEGER NOT NULL,
    filesystem   TEXT    NOT NULL,
    present      INTEGER NOT NULL, -- in the newest report
    protected_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (machine, id)
) STRICT;

CREATE TABLE tokens (
    id         TEXT    PRIMARY KEY,
    hash       TEXT    NOT NULL UNIQUE, -- SHA-256 of the secret, which nobody keeps
    machine    TEXT    NOT NULL,        -- to enrol again; empty: a new machine
    note       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0,
    used_at    INTEGER NOT NULL DEFAULT 0,
    used_by    TEXT    NOT NULL DEFAULT '', -- the machine
    used_key   TEXT    NOT NULL DEFAULT ''  -- so that the same request again is no second use
) STRICT;

CREATE TABLE certificates (
    serial     TEXT    PRIMARY KEY,
    machine    TEXT    NOT NULL, -- outlives the machine's row: a removed machine stays out
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0,
    reason     TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX certificates_by_machine ON certificates (machine);

CREATE TABLE operators (
    name       TEXT    PRIMARY KEY,
    hash       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    machine  TEXT    NOT NULL,
    disk     TEXT    NOT NULL,
    type     TEXT    NOT NULL,
    severity TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    remedy   TEXT    NOT NULL
) STRICT;
CREATE INDEX events_by_machine ON events (machine, id);

CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    who    TEXT    NOT NULL,
    verb   TEXT    NOT NULL,
    target TEXT    NOT NULL,
    result TEXT    NOT NULL
) STRICT;

CREATE TABLE jobs (
    id          TEXT    PRIMARY KEY,
    kind        TEXT    NOT NULL,
    machine     TEXT    NOT NULL,
    params      TEXT    NOT NULL,
    status      TEXT    NOT NULL,
    asked_by    TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    started_at  INTEGER NOT NULL DEFAULT 0,
    ended_at    INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT    NOT NULL DEFAULT '',
    lease_until INTEGER NOT NULL DEFAULT 0,
    problem     TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, created_at);
CREATE INDEX jobs_by_machine ON jobs (machine, created_at);

CREATE TABLE steps (
    job      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    ord      INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    status   TEXT    NOT NULL,
    output   TEXT    NOT NULL DEFAULT '', -- JSON, for the steps after it
    attempts TEXT    NOT NULL DEFAULT '[]',
    PRIMARY KEY (job, ord)
) STRICT;

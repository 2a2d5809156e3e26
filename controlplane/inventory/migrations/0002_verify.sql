-- Proofs that a machine's disks and its replica are equal: the newest request, and the
-- standing wish.
ALTER TABLE machines ADD COLUMN verify       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN verify_every INTEGER NOT NULL DEFAULT 0; -- seconds; 0: only when asked
ALTER TABLE machines ADD COLUMN verify_rate  INTEGER NOT NULL DEFAULT 0; -- bytes a second; 0: unlimited

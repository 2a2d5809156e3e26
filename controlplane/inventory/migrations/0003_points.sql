-- Points that are asked for: the newest request, and the newest that was answered: an
-- agent that lost its memory must not make an old one again. Of policies: how they want
-- application-consistent points (JSON).
ALTER TABLE machines ADD COLUMN point      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN point_made INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN point_name TEXT    NOT NULL DEFAULT '';
ALTER TABLE machines ADD COLUMN point_app  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policies ADD COLUMN consistency TEXT   NOT NULL DEFAULT '{}';

-- Last points, behind which a machine switches itself off: whether the point asked for is
-- one, and until when it is wanted (ns).
ALTER TABLE machines ADD COLUMN point_off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN point_until INTEGER NOT NULL DEFAULT 0;

-- Drills: how often machines are brought up for a try, and how (JSON).
ALTER TABLE policies ADD COLUMN drill TEXT NOT NULL DEFAULT '{}';

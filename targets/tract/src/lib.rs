//! Exported files in tract.

//! Exported files in ONNX Runtime.

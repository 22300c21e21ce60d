//! SSAMBA weights to ONNX.

"""Writes a copy of a model with the types and shapes of all values: python3 infer_shapes.py MODEL COPY"""

import sys

import onnx

model = onnx.load(sys.argv[1])
onnx.checker.check_model(model, full_check=True)
inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
onnx.save(inferred, sys.argv[2])

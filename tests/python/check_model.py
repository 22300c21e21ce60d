"""The ONNX project's own checks on exported files: python3 check_model.py MODEL..."""

import sys

import onnx

for path in sys.argv[1:]:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    known = {value.name for value in inferred.graph.value_info} | {value.name for value in inferred.graph.output}
    unknown = [name for node in model.graph.node for name in node.output if name not in known]
    if unknown:
        sys.exit(f"{path}: no shape inferred for {unknown[:5]}")
    external = [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        sys.exit(f"{path}: external weights {external[:5]}")

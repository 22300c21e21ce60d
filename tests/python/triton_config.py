"""Parses a model configuration by Triton's published protobuf schema and prints what it says as JSON.

Usage: python3 triton_config.py CONFIG.pbtxt
"""

import importlib.util
import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format

# The package around it wants gRPC, which the schema does not.
package = Path(importlib.util.find_spec("tritonclient").submodule_search_locations[0])
spec = importlib.util.spec_from_file_location("model_config_pb2", package / "grpc" / "model_config_pb2.py")
schema = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)

config = text_format.Parse(Path(sys.argv[1]).read_text(encoding="utf-8"), schema.ModelConfig())
print(json.dumps(json_format.MessageToDict(config)))

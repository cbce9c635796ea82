"""ONNX Runtime's files, without a model."""

from __future__ import annotations

import numpy as np
import pytest


def test_instances_may_quantise_the_same_file_at_the_same_time(tmp_path):
    """The quantiser, given a path, puts a file beside it under a name that another one removes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from autotune.worker.engines.onnxruntime import quantize

    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", floats, [None, 4])],
        [onnx.helper.make_tensor_value_info("y", floats, [None, 2])],
        [onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
    )
    source, path = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), source)
    beside = tmp_path / "plain-inferred.onnx"
    beside.mkdir()  # as if another had it
    quantize(source, path, per_channel=False, reduce_range=False)
    assert {file.name for file in tmp_path.iterdir()} == {source.name, beside.name, path.name}
    assert any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load(path).graph.node)

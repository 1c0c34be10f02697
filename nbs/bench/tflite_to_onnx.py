"""The published TFLite face models of mediapipe 0.10.21 as ONNX graphs that take whole batches of RGB pictures.

    uv pip install --no-deps --python-version 3.12 --target mp mediapipe==0.10.21
    uv run --no-project --python 3.13 --with tflite==2.18.0,ai-edge-litert==2.3.0,onnx==1.23.2,numpy==2.5.5 \\
        nbs/bench/tflite_to_onnx.py mp/mediapipe/modules fas_nb/assets

Weights keep their 16 bits. A tensor of four axes is [n, c, h, w] in the graph made here, [n, h, w, c] in the file read.
"""
import hashlib, sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import tflite
from flatbuffers import flexbuffers
from onnx import TensorProto, helper, numpy_helper

# name here -> file in the wheel, sha-256 of that file, value of a pixel of 0, value of a pixel of 255
MODELS = {
    "face_near": ("face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8", -1, 1),
    "face_far": ("face_detection/face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1", -1, 1),
    "face_mesh": ("face_landmark/face_landmark_with_attention.tflite",
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4", 0, 1),
    "person": ("selfie_segmentation/selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c", 0, 1),
    "face_mesh_plain": ("face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814", 0, 1),
    "iris": ("iris_landmark/iris_landmark.tflite",
        "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f", 0, 1)}
BUILTIN = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}

@dataclass
class Tensor:
    name:str
    shape:tuple   # as in the file read
    value:np.ndarray|None   # of a constant

class Graph:
    "A TFLite graph on its way to ONNX."
    def __init__(self, data:bytes, dense:dict):
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.source, self.dense = self.model.Subgraphs(0), dense
        self.nodes, self.constants, self.known = [], [], {}

    def tensor(self, i) -> Tensor:
        t = self.source.Tensors(i)
        shape = tuple(t.ShapeAsNumpy()) if t.ShapeLength() else ()
        if i not in self.known:
            raw = self.model.Buffers(t.Buffer())
            kinds = {tflite.TensorType.FLOAT16: "f2", tflite.TensorType.FLOAT32: "f4", tflite.TensorType.INT32: "i4"}
            self.known[i] = np.frombuffer(raw.DataAsNumpy().tobytes(), kinds[t.Type()]).reshape(shape) \
                if raw.DataLength() and t.Sparsity() is None else None
        return Tensor(f"t{i}", shape, self.known[i])

    def put(self, op, inputs, outputs=None, n=1, **options) -> list[str]:
        outputs = outputs or [f"v{len(self.nodes)}_{k}" for k in range(n)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **options))
        return outputs

    def constant(self, value) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, value) -> str:
        "A constant of the network as 32-bit value, kept in 16 bits where that loses nothing."
        half = value.astype(np.float16)
        if not (half == value).all(): return self.constant(value.astype(np.float32))
        return self.put("Cast", [self.constant(half)], to=TensorProto.FLOAT)[0]

def padded(size, kernel, stride, dilation=1):   # what TFLite's SAME adds before and after
    total = max((-(-size//stride) - 1)*stride + (kernel - 1)*dilation + 1 - size, 0)
    return total//2, total - total//2

def windows(options, shape, kernel):
    "Strides and padding of a convolution or pooling."
    strides = options.StrideH(), options.StrideW()
    pads = [padded(s, k, t) for s, k, t in zip(shape[1:3], kernel, strides)] \
        if options.Padding() == tflite.Padding.SAME else [(0, 0)]*2
    return {"strides": strides, "kernel_shape": kernel, "pads": [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]}

def activated(graph, options, name, output):
    "The activation that TFLite fuses into an operation."
    kind = options.FusedActivationFunction()
    if kind == tflite.ActivationFunctionType.NONE: graph.put("Identity", [name], [output])
    elif kind == tflite.ActivationFunctionType.RELU: graph.put("Relu", [name], [output])
    else: raise ValueError(f"activation {kind} is not translated")

def channels_first(value):   # a constant that is combined with a picture
    return value.reshape((1,)*(4 - value.ndim) + value.shape).transpose(0, 3, 1, 2) if value.ndim >= 3 else value

def convolution(graph, op, x, y):
    depthwise = op == "DEPTHWISE_CONV_2D"
    def translate(options):
        assert (options.DilationHFactor(), options.DilationWFactor()) == (1, 1)
        w, b = x[1].value, x[2].value
        w = w.transpose(3, 0, 1, 2) if depthwise else w.transpose(0, 3, 1, 2)
        out = graph.put("Conv", [x[0].name, graph.weight(w), graph.weight(b)],
                        group=x[0].shape[3] if depthwise else 1, **windows(options, x[0].shape, w.shape[2:]))
        activated(graph, options, out[0], y)
    return translate

def leaky(graph, x, slope, y):
    "PReLU as slope x + (1 - slope) max(x, 0): a PRelu node would make onnxruntime leave its fast layout of convolutions."
    def scaled(name, by):
        weight = graph.weight(by.reshape(-1, 1, 1, 1))
        return graph.put("Conv", [name, weight], group=len(slope), kernel_shape=[1, 1])[0]
    graph.put("Add", [scaled(x, slope), scaled(graph.put("Relu", [x])[0], 1 - slope)], [y])

def reshaped(graph, x, shape, y):   # values keep the order of the file read
    name = x.name
    if len(x.shape) == 4: name = graph.put("Transpose", [name], perm=[0, 2, 3, 1])[0]
    to = graph.constant(np.array([-1, *shape[1:]]))
    if len(shape) != 4: graph.put("Reshape", [name, to], [y])
    else: graph.put("Transpose", [graph.put("Reshape", [name, to])[0]], [y], perm=[0, 3, 1, 2])

def rotated(graph, xy, cosine, sine):
    "Points [n, k, 2] turned by an angle of which cosine and sine [n, 1, 1] are given."
    x, y = graph.put("Split", [xy], n=2, axis=2, num_outputs=2)
    def mul(a, b): return graph.put("Mul", [a, b])[0]
    turned = [graph.put("Sub", [mul(x, cosine), mul(y, sine)])[0], graph.put("Add", [mul(x, sine), mul(y, cosine)])[0]]
    return graph.put("Concat", turned, axis=2)[0]

def region(graph, x, options):
    "Landmarks2TransformMatrix: centre, size, cosine and sine of the turned box around some points [n, 468, 3]."
    def take(points): return graph.put("Gather", [x.name, graph.constant(np.array(points))], axis=1)[0]
    first, last = graph.constant(np.array([0])), graph.constant(np.array([2]))
    def plane(points): return graph.put("Slice", [take(points), first, last, graph.constant(np.array([2]))])[0]
    assert options["target_rotation_radians"] == 0 and options["scale_x"] == options["scale_y"]
    axis = graph.put("Sub", [plane([options["right_rotation_idx"]]), plane([options["left_rotation_idx"]])])[0]
    length = graph.put("ReduceL2", [axis, graph.constant(np.array([2]))], keepdims=1)[0]
    cosine, sine = graph.put("Split", [graph.put("Div", [axis, length])[0]], n=2, axis=2, num_outputs=2)
    back = graph.put("Neg", [sine])[0]
    level = rotated(graph, plane(options["subset_idxs"]), cosine, back)
    over = graph.constant(np.array([1]))
    high, low = (graph.put(f"Reduce{which}", [level, over], keepdims=1)[0] for which in ("Max", "Min"))
    middle = graph.put("Mul", [graph.put("Add", [high, low])[0], graph.constant(np.float32(.5))])[0]
    size = graph.put("Mul", [graph.put("Sub", [high, low])[0], graph.constant(np.float32(options["scale_x"]))])[0]
    side = np.float32([options["output_width"], options["output_height"]])
    step = graph.put("Div", [size, graph.constant(side)])[0]
    return rotated(graph, middle, cosine, sine), step, cosine, sine, side, np.float32(1)

def placed(graph, points, region):
    "Points [k, 2] or [n, k, 2] of the region's own grid in the picture that it was taken from, `scale` times as fine."
    centre, step, cosine, sine, side, scale = region
    scaled = graph.put("Mul", [graph.put("Sub", [points, graph.constant(side/2*scale)])[0], step])[0]
    if scale != 1: centre = graph.put("Mul", [centre, graph.constant(scale)])[0]
    return graph.put("Add", [rotated(graph, scaled, cosine, sine), centre])[0]

def sampled(graph, x, region, options, y):
    "TransformTensorBilinear: the region of a feature map on a grid of its own, zero outside of the map."
    h, w = options["output_height"], options["output_width"]
    own = np.stack(np.meshgrid(np.arange(w) + .5, np.arange(h) + .5), -1).reshape(-1, 2).astype(np.float32)
    at = graph.put("Sub", [placed(graph, graph.constant(own), region), graph.constant(np.float32(.5))])[0]
    last = np.float32([x.shape[2] - 1, x.shape[1] - 1])
    at = graph.put("Sub", [graph.put("Mul", [at, graph.constant(2/last)])[0], graph.constant(np.float32(1))])[0]
    grid = graph.put("Reshape", [at, graph.constant(np.array([-1, h, w, 2]))])[0]
    read = graph.put("GridSample", [x.name, grid], mode="linear", padding_mode="zeros", align_corners=1)[0]
    reach = graph.put("ReduceMax", [graph.put("Abs", [grid])[0], graph.constant(np.array([3]))], keepdims=0)[0]
    inside = graph.put("LessOrEqual", [reach, graph.constant(np.float32(1))])[0]
    inside = graph.put("Cast", [inside], to=TensorProto.FLOAT)[0]
    graph.put("Mul", [read, graph.put("Unsqueeze", [inside, graph.constant(np.array([1]))])[0]], [y])

def custom(graph, name, x, y, raw, regions):
    options = flexbuffers.Loads(raw) if len(raw) > 4 else {}
    if name == "Landmarks2TransformMatrix": regions[y] = region(graph, x[0], options)
    elif name == "TransformTensorBilinear": sampled(graph, x[0], regions[x[1].name], options, y)
    elif name == "Convolution2DTransposeBias":
        weight, bias = graph.weight(x[1].value.transpose(3, 0, 1, 2)), graph.weight(x[2].value)
        graph.put("ConvTranspose", [x[0].name, weight, bias], [y], kernel_shape=[2, 2], strides=[2, 2])
    elif name == "TransformLandmarks": graph.put("Identity", [placed(graph, x[0].name, regions[x[1].name])], [y])
    else: raise ValueError(f"operation {name} is not translated")

def built_in(graph, op, x, y, out, options):
    "One operation of the standard set."
    def read(kind):
        found = kind(); found.Init(options.Bytes, options.Pos)
        return found
    if op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        convolution(graph, op, x, y)(read(tflite.Conv2DOptions if op == "CONV_2D" else tflite.DepthwiseConv2DOptions))
    elif op == "PRELU": leaky(graph, x[0].name, x[1].value.ravel(), y)
    elif op == "RELU": graph.put("Relu", [x[0].name], [y])
    elif op == "ADD": activated(graph, read(tflite.AddOptions), graph.put("Add", [x[0].name, x[1].name])[0], y)
    elif op == "MUL":
        by = x[1].name if x[1].value is None else graph.weight(channels_first(x[1].value))
        graph.put("Mul", [x[0].name, by], [y])
    elif op == "LOGISTIC": graph.put("Sigmoid", [x[0].name], [y])
    elif op == "HARD_SWISH": graph.put("HardSwish", [x[0].name], [y])
    elif op == "AVERAGE_POOL_2D" and out.shape[1:3] == (1, 1): graph.put("GlobalAveragePool", [x[0].name], [y])
    elif op == "PAD":
        before, after = x[1].value[[0, 3, 1, 2]].T
        graph.put("Pad", [x[0].name, graph.constant(np.r_[before, after].astype(np.int64))], [y])
    elif op == "MAX_POOL_2D":
        pool = read(tflite.Pool2DOptions)
        graph.put("MaxPool", [x[0].name], [y], **windows(pool, x[0].shape, (pool.FilterHeight(), pool.FilterWidth())))
    elif op == "CONCATENATION":
        axis = read(tflite.ConcatenationOptions).Axis()
        assert len(out.shape) == 3
        graph.put("Concat", [t.name for t in x], [y], axis=axis)
    elif op == "RESIZE_BILINEAR":
        kind = read(tflite.ResizeBilinearOptions)
        mode = "align_corners" if kind.AlignCorners() else "half_pixel" if kind.HalfPixelCenters() else "asymmetric"
        factors = np.float32([1, 1, out.shape[1]/x[0].shape[1], out.shape[2]/x[0].shape[2]])
        graph.put("Resize", [x[0].name, "", graph.constant(factors)], [y], mode="linear",
                  coordinate_transformation_mode=mode)
    elif op == "DEPTH_TO_SPACE":
        graph.put("DepthToSpace", [x[0].name], [y], mode="DCR", blocksize=read(tflite.DepthToSpaceOptions).BlockSize())
    elif op == "RESHAPE": reshaped(graph, x[0], out.shape, y)
    elif op == "STRIDED_SLICE" and x[0].shape == out.shape: graph.put("Identity", [x[0].name], [y])
    else: raise ValueError(f"operation {op} is not translated")

def translate(data:bytes, low:float, high:float, dense:dict, name:str) -> onnx.ModelProto:
    "Input uint8 [n, h, w, 3] RGB; outputs by `detector_outputs` and `mesh_outputs`, else those of the file in rows."
    graph, regions = Graph(data, dense), {}
    source = graph.source
    start, h, w = source.Inputs(0), *graph.tensor(source.Inputs(0)).shape[1:3]
    pixels = graph.put("Cast", ["image"], to=TensorProto.FLOAT)[0]
    pixels = graph.put("Mul", [pixels, graph.constant(np.float32((high - low)/255))])[0]
    pixels = graph.put("Add", [pixels, graph.constant(np.float32(low))])[0]
    graph.put("Transpose", [pixels], [f"t{start}"], perm=[0, 3, 1, 2])
    for k in range(source.OperatorsLength()):
        op = source.Operators(k)
        code = graph.model.OperatorCodes(op.OpcodeIndex())
        kind = BUILTIN[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        ids, to = [i for i in op.InputsAsNumpy() if i >= 0], op.Outputs(0)
        x, out = [graph.tensor(i) for i in ids], graph.tensor(to)
        if kind == "DENSIFY": graph.known[to] = dense[to]
        elif kind == "DEQUANTIZE" and x[0].value is not None: graph.known[to] = x[0].value.astype(np.float32)
        elif kind == "MUL" and x[0].name in regions:   # only the shift grows: points in another unit of length
            turn, shift = x[1].value.reshape(4, 4)[:2, :2], x[1].value.reshape(4, 4)[:2, 3]
            assert (turn == 1).all() and shift[0] == shift[1]
            regions[out.name] = (*regions[x[0].name][:-1], np.float32(shift[0]))
        elif kind == "CUSTOM":
            raw = op.CustomOptionsAsNumpy().tobytes() if op.CustomOptionsLength() else b""
            custom(graph, code.CustomCode().decode(), x, out.name, raw, regions)
        else: built_in(graph, kind, x, out.name, out, op.BuiltinOptions())
    finish = {"face_mesh": mesh_outputs, "person": person_outputs}.get(name) or \
        (detector_outputs if name in ANCHORS else plain_outputs)
    return assembled(graph, (h, w), name, finish(graph, name, regions))

def plain_outputs(graph, name, regions):
    outputs = []
    for i in graph.source.OutputsAsNumpy():
        label = graph.source.Tensors(i).Name().decode()
        t = graph.tensor(i)
        outputs.append((graph.put("Flatten", [t.name], [label], axis=1)[0], [int(np.prod(t.shape))]))
    return outputs

def person_outputs(graph, name, regions):
    "`person` [n, h, w]: how much each pixel is a person, in [0, 1]."
    [last] = graph.source.OutputsAsNumpy()
    shown = graph.tensor(last)
    axis = graph.constant(np.array([1]))
    return [(graph.put("Squeeze", [shown.name, axis], ["person"])[0], [int(n) for n in shown.shape[1:3]])]

def cells(side, each):   # the middles of the cells of a grid, (x, y) in [0, 1]
    middles = (np.arange(side) + .5)/side
    return np.repeat(np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2), each, 0)

# the grids of each detector and how many faces a cell can hold (SsdAnchorsCalculator)
ANCHORS = {"face_near": (128, np.r_[cells(16, 2), cells(8, 6)]), "face_far": (192, cells(48, 1))}

def detector_outputs(graph, name, regions):
    "`faces` [n, k, 16]: box XYXY and six points (x, y), in sides of the picture; `score` [n, k] in [0, 1]."
    size, anchors = ANCHORS[name]
    raw, logits = (graph.tensor(i).name for i in graph.source.OutputsAsNumpy())
    values = graph.put("Mul", [raw, graph.constant(np.float32(1/size))])[0]
    parts = graph.put("Split", [values, graph.constant(np.array([2, 2, 12]))], n=3, axis=2)
    middle, points = (graph.put("Add", [part, graph.constant(np.tile(anchors, (1, times)).astype(np.float32))])[0]
                      for part, times in ((parts[0], 1), (parts[2], 6)))
    half = graph.put("Mul", [parts[1], graph.constant(np.float32(.5))])[0]
    low, high = graph.put("Sub", [middle, half])[0], graph.put("Add", [middle, half])[0]
    faces = graph.put("Concat", [low, high, points], ["faces"], axis=2)[0]
    flat = graph.put("Reshape", [logits, graph.constant(np.array([-1, len(anchors)]))])[0]
    return [(faces, [len(anchors), 16]), (graph.put("Sigmoid", [flat], ["score"])[0], [len(anchors)])]

def mesh_outputs(graph, name, regions):
    "`points` [n, 478, 3] in pixels of the picture, refined as by LandmarksRefinementCalculator; `score` [n] in [0, 1]."
    mesh, *refined, flag = graph.source.OutputsAsNumpy()
    subsets = [flexbuffers.Loads(op.CustomOptionsAsNumpy().tobytes())["subset_idxs"]
               for op in map(graph.source.Operators, range(graph.source.OperatorsLength()))
               if graph.model.OperatorCodes(op.OpcodeIndex()).CustomCode() == b"Landmarks2TransformMatrix"]
    lips, right_eye, left_eye = subsets   # sides of the person; the file says left for the left of the picture
    def points(i, axes):
        shape = np.array([-1, int(np.prod(graph.tensor(i).shape))//axes, axes])
        return graph.put("Reshape", [graph.tensor(i).name, graph.constant(shape)])[0]
    plane, depth = graph.put("Split", [points(mesh, 3), graph.constant(np.array([2, 1]))], n=2, axis=2)
    places, at = np.arange(478), 468   # of each point among all that the network gives; the finer one wins
    for indices in (lips, right_eye, left_eye, range(468, 473), range(473, 478)):
        places[list(indices)] = np.arange(at, at + len(indices)); at += len(indices)
    every = graph.put("Concat", [plane, *(points(i, 2) for i in refined)], axis=1)[0]
    xy = graph.put("Gather", [every, graph.constant(places)], axis=1)[0]
    def mean(eye):   # an iris is as near as the rim of its eye, the first 16 points
        rim = graph.put("Gather", [depth, graph.constant(np.array(eye[:16]))], axis=1)[0]
        return graph.put("ReduceMean", [rim, graph.constant(np.array([1]))], keepdims=1)[0]
    z = graph.put("Concat", [depth, *[mean(right_eye)]*5, *[mean(left_eye)]*5], axis=1)[0]
    score = graph.put("Sigmoid", [graph.tensor(flag).name])[0]
    return [(graph.put("Concat", [xy, z], ["points"], axis=2)[0], [478, 3]),
            (graph.put("Reshape", [score, graph.constant(np.array([-1]))], ["score"])[0], [])]

def assembled(graph, size, name, outputs):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", int(size[0]), int(size[1]), 3])
    outputs = [helper.make_tensor_value_info(label, TensorProto.FLOAT, ["n", *shape]) for label, shape in outputs]
    model = helper.make_model(helper.make_graph(graph.nodes, name, [image], outputs, graph.constants),
                              opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="tflite_to_onnx")
    onnx.checker.check_model(model, full_check=True)
    return model

def densified(data:bytes) -> dict:
    "The sparse weights of a file, as its own runtime unpacks them."
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    source = tflite.Model.GetRootAsModel(data, 0)
    graph = source.Subgraphs(0)
    sparse = [graph.Operators(k).Outputs(0) for k in range(graph.OperatorsLength())
              if source.OperatorCodes(graph.Operators(k).OpcodeIndex()).BuiltinCode() == tflite.BuiltinOperator.DENSIFY]
    if not sparse: return {}
    run = Interpreter(model_content=data, experimental_preserve_all_tensors=True,
                      experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    run.allocate_tensors(); run.invoke()
    return {i: run.get_tensor(i) for i in sparse}

def main(modules, folder, *names):
    for name in names or ("face_near", "face_far", "face_mesh", "person"):
        path, digest, low, high = MODELS[name]
        data = (Path(modules)/path).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != digest: sys.exit(f"{path} has sha-256 {found}, expected {digest}")
        to = Path(folder)/f"{name}.onnx"
        to.write_bytes(translate(data, low, high, densified(data), name).SerializeToString(deterministic=True))
        print(to.name, to.stat().st_size, hashlib.sha256(to.read_bytes()).hexdigest())

if __name__ == "__main__": main(*sys.argv[1:])

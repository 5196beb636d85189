"""Writes what torch.save writes (torch 1.6 and later), by hand: a zip file of stored, 64-byte aligned entries with a
pickle of protocol 2. Made from the format's description, for tests, without torch; tests/golden/make_torch_checkpoint.py
makes the same with torch itself."""

import struct
import zipfile

STORAGE_CLASSES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "I64": "LongStorage",
                   "F64": "DoubleStorage"}
ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F64": 8}
ALIGNMENT = 64


class Storage:
    def __init__(self, dtype, data):
        self.dtype = dtype
        self.data = bytes(data)

    @property
    def elements(self):
        return len(self.data) // ELEMENT_BYTES[self.dtype]


class Tensor:
    """A view of a storage; strides and offset in elements, dense by default."""

    def __init__(self, storage, shape, strides=None, offset=0, parameter=False):
        self.storage, self.shape, self.offset, self.parameter = storage, list(shape), offset, parameter
        self.strides = strides if strides is not None else [
            _product(self.shape[i + 1:]) for i in range(len(self.shape))]


def _product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


class Pickler:
    """The opcodes that torch's pickler emits for a state dict."""

    def __init__(self, storages):
        self.out = bytearray(b"\x80\x02")
        self.memo = 0
        self.storages = storages

    def put(self):
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        self.memo += 1

    def text(self, value):
        data = value.encode()
        self.out += b"X" + struct.pack("<I", len(data)) + data
        self.put()

    def integer(self, value):
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        elif -2 ** 31 <= value < 2 ** 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            self.out += b"\x8a" + bytes([len(data)]) + data

    def named(self, module, name):
        self.out += b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        self.put()

    def integers(self, values):
        if not values:
            self.out += b")"
            return
        if len(values) > 3:
            self.out += b"("
        for value in values:
            self.integer(value)
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(values), b"t")
        self.put()

    def ordered_dict(self):
        self.named("collections", "OrderedDict")
        self.out += b")R"
        self.put()

    def tensor(self, tensor):
        if tensor.parameter:
            self.named("torch._utils", "_rebuild_parameter")
            self.out += b"("
        self.named("torch._utils", "_rebuild_tensor_v2")
        self.out += b"(("
        self.text("storage")
        self.named("torch", STORAGE_CLASSES[tensor.storage.dtype])
        self.text(str(self.storages.index(tensor.storage)))
        self.text("cpu")
        self.integer(tensor.storage.elements)
        self.out += b"t"
        self.put()
        self.out += b"Q"
        self.integer(tensor.offset)
        self.integers(tensor.shape)
        self.integers(tensor.strides)
        self.out += b"\x89"  # requires_grad
        self.ordered_dict()
        self.out += b"t"
        self.put()
        self.out += b"R"
        self.put()
        if tensor.parameter:
            self.out += b"\x88"
            self.ordered_dict()
            self.out += b"t"
            self.put()
            self.out += b"R"
            self.put()

    def state_dict(self, tensors):
        self.ordered_dict()
        self.out += b"("
        for name, tensor in tensors.items():
            self.text(name)
            self.tensor(tensor)
        self.out += b"u"
        # The attribute _metadata that torch gives to the dictionary.
        self.out += b"}"
        self.put()
        self.text("_metadata")
        self.ordered_dict()
        self.out += b"sb."
        return bytes(self.out)


def write(path, tensors, pickle=None, byteorder="little"):
    """tensors: {name: Tensor}. `pickle` takes the place of the one that describes them."""
    storages = []
    for tensor in tensors.values():
        if not any(tensor.storage is known for known in storages):
            storages.append(tensor.storage)
    entries = [("data.pkl", pickle if pickle is not None else Pickler(storages).state_dict(tensors)),
               ("byteorder", byteorder.encode())]
    entries += [(f"data/{i}", storage.data) for i, storage in enumerate(storages)]
    entries.append(("version", b"3\n"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            # A field that fills up to the alignment, as torch does: "FB", its length, that many bytes.
            start = archive.fp.tell() + 30 + len(info.filename) + 4
            padding = -start % ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            archive.writestr(info, data)

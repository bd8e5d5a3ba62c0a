// The safetensors format: eight bytes with the header's length, the header as JSON, then the tensors' bytes.

const READ = {
  F32: (buffer) => new Float32Array(buffer),
  F64: (buffer) => Float32Array.from(new Float64Array(buffer)),
  I64: (buffer) => lowHalves(new Int32Array(buffer)),
};

/** Indices and lengths are small; and a BigInt for each of them would take longest of all. */
function lowHalves(halves) {
  const found = new Int32Array(halves.length / 2);
  for (let i = 0; i < found.length; i++) found[i] = halves[2 * i];
  return found;
}

/** {tensors: {name: {shape, data}}, metadata} of a file: floats as float32, whole numbers as int32. */
export function read(buffer) {
  const length = buffer.byteLength < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  if (8 + length > buffer.byteLength) throw new TypeError("expected safetensors, got fewer bytes than its header promises");
  const { __metadata__: metadata = {}, ...headers } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(headers)) {
    if (!READ[dtype]) throw new TypeError(`expected F32, F64 or I64, got ${dtype} - at ${name}`);
    tensors[name] = { shape, data: READ[dtype](buffer.slice(8 + length + start, 8 + length + end)) };
  }
  return { tensors, metadata };
}

/** The file that holds one float32 tensor and metadata, a value of which is JSON as text. */
export function write(name, { shape, data }, metadata) {
  const texts = Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, JSON.stringify(value)]));
  const entry = { dtype: "F32", shape, data_offsets: [0, data.byteLength] };
  const header = new TextEncoder().encode(JSON.stringify({ __metadata__: texts, [name]: entry }));
  const padded = Math.ceil(header.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded + data.byteLength).fill(32);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(header, 8);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 8 + padded);
  return bytes;
}

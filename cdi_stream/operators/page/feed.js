// The feed: a web socket that is opened again when it closes.

const RETRY_MS = 500; // doubles with each failure, up to 10 s
const MAX_RETRY_MS = 10000;

export const connection = {state: "connecting", retryAt: 0};

const ARRAYS = {uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, uint32: Uint32Array};

// Return header and arrays of a message: length of the header, header, then the arrays at their places.
export function read(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const {name, dtype, shape, start} of header.arrays) {
    const n = shape.reduce((product, side) => product * side, 1);
    if (n > 0) arrays[name] = {shape, data: new ARRAYS[dtype](buffer, 4 + length + start, n)};
  }
  return {header, images: arrays};
}

let place = ""; // dashboard and number of the newest message, from which a new connection goes on

export const notePlace = ({hub, n}) => { place = `hub=${hub}&since=${n}`; };

export function connect(take, onChange, retryMs = RETRY_MS) {
  connection.state = connection.state === "open" ? "connecting" : connection.state;
  let nextMs = Math.min(2 * retryMs, MAX_RETRY_MS);
  const socket = new WebSocket(Object.assign(new URL("ws", location.href), {search: place}));
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({data}) => take(data);
  socket.onopen = () => {
    connection.state = "open";
    nextMs = RETRY_MS;
    onChange();
  };
  socket.onclose = () => {
    Object.assign(connection, {state: "closed", retryAt: performance.now() + retryMs});
    setTimeout(() => connect(take, onChange, nextMs), retryMs);
    onChange();
  };
}

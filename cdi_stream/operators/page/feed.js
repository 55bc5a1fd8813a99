// The feed: a web socket that is opened again when it closes.

const RETRY_MS = 500; // doubles with each failure, up to 10 s
const MAX_RETRY_MS = 10000;

export const connection = {state: "connecting", retryAt: 0};

// Return header and images of a message: length of the header, header, then the images one after another.
export function read(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const images = {};
  let start = 4 + length;
  for (const {name, shape} of header.images) {
    const n = shape.reduce((product, side) => product * side, 1);
    const data = new Uint8Array(buffer, start, n);
    if (shape.length === 2 && n > 0) images[name] = {shape, data};
    start += n;
  }
  return {header, images};
}

export function connect(take, onChange, retryMs = RETRY_MS) {
  connection.state = connection.state === "open" ? "connecting" : connection.state;
  let nextMs = Math.min(2 * retryMs, MAX_RETRY_MS);
  const socket = new WebSocket(Object.assign(new URL("feed", location.href), {search: location.search}));
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

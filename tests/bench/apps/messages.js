// The same as messages.py, between Node and Node.
const cluster = require('node:cluster');
const net = require('node:net');
const [what, text] = process.argv.slice(2);
const count = Number(text);
const MESSAGE = { text: 'x'.repeat(86) };
let seen = 0;
if (cluster.isPrimary) {
  const worker = cluster.fork();
  const start = (handle) => {
    let began;
    worker.on('online', () => {
      began = performance.now();
      for (let i = 0; i < (['there', 'handles'].includes(what) ? count : 1); i++) worker.send(MESSAGE, handle);
    });
    worker.on('message', (message, got) => {
      seen++;
      if (got) got.close();
      if ((what === 'ping' || what === 'handle_ping') && seen < count) worker.send(MESSAGE, handle);
      else if (what === 'there' || seen === count) {
        console.log((performance.now() - began) / 1000);
        worker.disconnect();
        if (handle) handle.close();
      }
    });
  };
  if (what.startsWith('handle')) { const server = net.createServer(); server.listen(0, '127.0.0.1', () => start(server)); }
  else start();
} else {
  process.on('message', (message, handle) => {
    if (what === 'there') { if (++seen === count) process.send(seen); }
    else if (what === 'back') for (let i = 0; i < count; i++) process.send(MESSAGE);
    else if (handle) { process.send(message, handle, () => handle.close()); }
    else process.send(message);
  });
}

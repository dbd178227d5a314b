// Node's own cluster, answering as hello.py does: node cluster.js PORT WORKERS
const cluster = require('node:cluster');
const http = require('node:http');
const [port, workers] = process.argv.slice(2).map(Number);
if (cluster.isPrimary) {
  for (let i = 0; i < workers; i++) cluster.fork();
  process.on('SIGTERM', () => process.exit(0));
} else {
  http.createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/plain', 'content-length': 13 });
    response.end('Hello, world!');
  }).listen(port, '127.0.0.1');
}

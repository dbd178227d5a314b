// A server as PM2's own page on graceful shutdown has it: SIGINT closes, and ends when the last client has gone.
const http = require('node:http');
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'content-length': 3 });
  response.end('one');
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGINT', () => server.close(() => process.exit(0)));

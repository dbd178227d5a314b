// The far end of test_node_peer.py: Node's own IPC code, which sends back what it gets. Users' messages come back as
// {echo}, Node's internal ones as {internal}; handles go along, as what they arrived as.
'use strict';

const { TCP } = process.binding('tcp_wrap');

function back(name) {
  return (message, handle) => {
    if (message && message.finish) return process.disconnect();
    process.send({ [name]: message, handle: handle ? handle.constructor.name : null }, handle);
  };
}

process.on('message', back('echo'));
process.on('internalMessage', back('internal'));
process.on('warning', (warning) => process.send({ warning: warning.name }));
process.send({ hello: process.version, raw: typeof TCP });

// The far end of test_node_peer.py: Node's own IPC code, which sends back what it gets. Users' messages come back as
// {echo}, internal ones (but the envelopes of handles) as {internal}; a handle goes along, as what it arrived as.
'use strict';

function back(name) {
  return (message, handle) => {
    if (message !== null && String(message.cmd).startsWith('NODE_HANDLE')) return;
    if (message !== null && message.finish) return process.disconnect();
    process.send({ [name]: message, handle: handle ? handle.constructor.name : null }, handle);
  };
}

process.on('message', back('echo'));
process.on('internalMessage', back('internal'));
process.on('warning', (warning) => process.send({ warning: warning.name }));
process.send({ hello: process.pid });

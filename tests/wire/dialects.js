// A long-lived reader of JSON as Node understands it. In: one line of base64 per message. Out: one line of JSON each,
// the tools that some way of decoding and splitting the message would call.
'use strict';

const DECODE = [
  (bytes) => bytes.toString('utf8'),
  (bytes) => new TextDecoder('utf-8').decode(bytes),
  (bytes) => bytes.toString('latin1'),
  (bytes) => new TextDecoder('utf-16le').decode(bytes),
];
const SPLIT = [(text) => [text], (text) => text.split(/\r\n|\n|\r/), (text) => text.split('\n')];
const CLEAN = [(text) => text, (text) => text.trim()];

function called(value) {
  if (Array.isArray(value)) return value.flatMap(called);
  if (value === null || typeof value !== 'object') return [];
  // A property access turns an array of one string into that string, as a look-up in a table of handlers does.
  if (String(value.method) !== 'tools/call' || value.params === null || typeof value.params !== 'object') return [];
  return [String(value.params.name)];
}

function read(bytes) {
  const tools = new Set();
  for (const decode of DECODE)
    for (const split of SPLIT)
      for (const clean of CLEAN)
        for (const line of split(decode(bytes))) {
          try {
            for (const tool of called(JSON.parse(clean(line)))) tools.add(tool);
          } catch {
            // This way of reading takes it for no message at all.
          }
        }
  return [...tools];
}

require('node:readline')
  .createInterface({ input: process.stdin })
  .on('line', (line) => process.stdout.write(JSON.stringify(read(Buffer.from(line, 'base64'))) + '\n'));

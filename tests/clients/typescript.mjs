// One session of a client of the TypeScript SDK over HTTP; prints what the application saw as JSON, one line per step.
//
//   node typescript.mjs PACKAGES LINE TRANSPORT URL
//
// PACKAGES is the folder of the npm packages, LINE is v1 (@modelcontextprotocol/sdk), v2 (@modelcontextprotocol/client)
// or v2-auto (v2, which looks for the newest revision first), TRANSPORT is http or sse.
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [packages, line, transport, url] = process.argv.slice(2);
const load = (...path) => import(pathToFileURL(join(packages, '@modelcontextprotocol', ...path)).href);

async function sdk() {
    if (line !== 'v1') return await load('client', 'dist', 'index.mjs');
    const [client, http, sse] = await Promise.all([
        load('sdk', 'dist', 'esm', 'client', 'index.js'),
        load('sdk', 'dist', 'esm', 'client', 'streamableHttp.js'),
        load('sdk', 'dist', 'esm', 'client', 'sse.js'),
    ]);
    return { ...client, ...http, ...sse };
}

const { Client, StreamableHTTPClientTransport, SSEClientTransport } = await sdk();
const say = (step, value) => console.log(JSON.stringify([step, value]));

async function step(name, action) {
    try {
        say(name, await action());
    } catch (error) {
        say(name, { failed: error.constructor.name, code: error.code, message: error.message });
    }
}

const options = { capabilities: {}, ...(line === 'v2-auto' ? { versionNegotiation: { mode: 'auto' } } : {}) };
const client = new Client({ name: `typescript-${line}`, version: '1.0.0' }, options);
const Transport = transport === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
const wire = new Transport(new URL(url));
await client.connect(wire);
say('server', [client.getServerVersion(), client.getServerCapabilities(), client.getInstructions()?.length]);
for (const list of ['listTools', 'listResources', 'listResourceTemplates', 'listPrompts']) {
    await step(list, () => client[list]());
}
const { tools } = await client.listTools();
const offered = new Set(tools.map((tool) => tool.name));
const call = async (name, args, more) => {
    if (offered.has(name)) await step(name, () => client.callTool({ name, arguments: args }, ...more));
};
const progress = [];
const following = { onprogress: (told) => progress.push([told.progress, told.total]) };
const withOptions = (given) => (line === 'v1' ? [undefined, given] : [given]);
await call('echo', { message: 'é ☃ \u2028' }, []);
await call('get-sum', { a: 0.1, b: 1e21 }, []);
await call('get-tiny-image', {}, []);
await call('trigger-long-running-operation', { duration: 0.4, steps: 4 }, withOptions(following));
await call('test_simple_text', {}, []);
await call('test_image_content', {}, []);
await call('test_multiple_content_types', {}, []);
await call('test_tool_with_progress', {}, withOptions(following));
await call('test_error_handling', {}, []);
await call('test_reconnection', {}, []);
// The last one may be read in one piece with the answer; the client handles that first, and then knows no follower.
say('progress', progress.filter(([done, total]) => done < total));
await step('no such tool', () => client.callTool({ name: 'no such tool', arguments: {} }));
await step('read', async () => {
    const { resources } = await client.listResources();
    return await client.readResource({ uri: resources[0].uri });
});
await step('no such resource', () => client.readResource({ uri: 'test://no/such/resource' }));
await step('many', () =>
    Promise.all(Array.from({ length: 20 }, () => client.listTools().then((found) => found.tools.length))));
if (transport === 'http' && wire.sessionId) await step('terminate', () => wire.terminateSession().then(() => 'ended'));
await client.close();
say('closed', true);

// Dials out to a trainer and answers it until it says Close. A lost connection is dialled again; the state stays here.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { Session } from './session.js';

const PROTO = 'simulation/v2/simulation.proto';
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 2000;
const CLOSE_PATIENCE_MS = 2000;
const USAGE = 'usage: node simulator.js --attach HOST:PORT --experiment ID [--lanes 4] [--token HEX] [--proto DIR]';

// The trainer has read what we sent and does not want it: the same words would be refused again.
const REFUSALS = new Set([
  grpc.status.INVALID_ARGUMENT,
  grpc.status.NOT_FOUND,
  grpc.status.PERMISSION_DENIED,
  grpc.status.FAILED_PRECONDITION,
  grpc.status.RESOURCE_EXHAUSTED,
  grpc.status.UNAUTHENTICATED,
  grpc.status.UNIMPLEMENTED,
]);

function readArguments() {
  const { values } = parseArgs({
    options: {
      attach: { type: 'string' },
      experiment: { type: 'string' },
      lanes: { type: 'string', default: '4' },
      token: { type: 'string', default: '' },
      proto: { type: 'string', default: fileURLToPath(new URL('../../proto', import.meta.url)) },
    },
  });
  if (!values.attach || !values.experiment) throw new Error('--attach and --experiment are needed');
  if (!/^[1-9]\d{0,4}$/.test(values.lanes)) throw new Error(`--lanes: given ${values.lanes}, expected 1 to 99999`);
  if (!/^([0-9a-f]{2})*$/i.test(values.token)) throw new Error('--token: expected pairs of hexadecimal digits');
  return { ...values, lanes: Number(values.lanes), token: Buffer.from(values.token, 'hex') };
}

function loadGateway(directory) {
  if (!existsSync(join(directory, PROTO))) throw new Error(`--proto: there is no ${PROTO} in ${directory}`);
  const definition = protoLoader.loadSync(PROTO, {
    includeDirs: [directory],
    keepCase: true,
    longs: String, // a uint64 does not fit into a Number
    defaults: true,
    oneofs: true, // gives `kind`, the name of the member that is set
  });
  return grpc.loadPackageDefinition(definition).simulation.v2.EnvironmentGateway;
}

class Simulator {
  constructor(Gateway, address, session) {
    this.Gateway = Gateway;
    this.address = address;
    this.session = session;
    this.delay = FIRST_DELAY_MS;
    this.complaint = '';
  }

  dial() {
    const { session } = this;
    // A client for each attempt, with connections of its own: only the delay below decides when to dial again.
    const client = new this.Gateway(this.address, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_retries': 0,
    });
    const call = client.Attach();
    call.on('data', (message) => this.answer(call, message));
    call.on('error', () => {}); // 'status' below tells the same and comes in every case
    call.on('status', (status) => {
      client.close();
      this.ended(status);
    });
    call.write(session.open());
  }

  answer(call, message) {
    const { session } = this;
    if (session.closed || session.failure) return; // our side of the stream has ended
    const reply = session.handle(message);
    call.write(reply);
    if (message.kind === 'hello' && reply.contract) {
      this.delay = FIRST_DELAY_MS;
      this.complaint = '';
      console.log(`attached to ${this.address} as ${session.id}`);
    }
    if (session.closed || session.failure) {
      call.end();
      // A trainer that never ends its side must not keep this process alive.
      setTimeout(() => call.cancel(), CLOSE_PATIENCE_MS).unref();
    }
  }

  ended({ code, details }) {
    const { session } = this;
    if (session.failure) {
      console.error(session.failure);
      process.exitCode = 1;
    } else if (session.closed) {
      process.exitCode = 0;
    } else if (REFUSALS.has(code)) {
      console.error(`refused by ${this.address}: ${grpc.status[code]}: ${details}`);
      process.exitCode = 1;
    } else {
      // A trainer that ends the stream without Close is gone for now, not for good.
      const why = code === grpc.status.OK ? 'the stream was ended' : `${grpc.status[code]}: ${details}`;
      const complaint = `lost ${this.address}: ${why}`;
      if (complaint !== this.complaint) console.error(`${complaint}; trying again`); // once, not at every attempt
      this.complaint = complaint;
      setTimeout(() => this.dial(), this.delay);
      this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
    }
  }
}

function main() {
  let options;
  let Gateway;
  try {
    options = readArguments();
    Gateway = loadGateway(options.proto);
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exitCode = 2;
    return;
  }
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
  const session = new Session({
    lanes: options.lanes,
    experimentId: options.experiment,
    attachToken: options.token,
  });
  new Simulator(Gateway, options.attach, session).dial();
}

main();

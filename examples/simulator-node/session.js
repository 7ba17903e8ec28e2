// The protocol, without any network: every ToEnv goes into handle(), which returns the one FromEnv that answers it.
// Written for one float32 observation leaf and a Discrete action.
import { randomBytes, timingSafeEqual } from 'node:crypto';
import * as environment from './grid.js';

const GENERATION = 'sim-v2';
const CAPABILITIES = ['mask', 'final_obs', 'partial_reset', 'resume'];
const LEASE_MS = 60_000;
const FLOAT_BYTES = 4;
const ACTION_BYTES = 8;
const { ACTIONS, Lane, OBS_LEN } = environment;

// A request that cannot be executed. It is thrown before anything has changed, so the state stays as it was.
class Refusal extends Error {
  constructor(code, field, given, expected, lanes = []) {
    super(`${field}: given ${given}, expected ${expected}`);
    this.code = code;
    this.lanes = lanes;
  }
}

const invalid = (field, given, expected) =>
  new Refusal('ERROR_CODE_INVALID_REQUEST', field, given, expected);

const errorOf = (seq, { code, message, lanes }) => ({
  seq: String(seq),
  error: { code, message, recoverable: true, lanes },
});

export class Session {
  #lanes; // { env, ready } for each lane
  #greeted = false; // hello was answered on the present stream
  #last = 0n; // highest seq executed
  #stored = null; // its answer

  // Set when nothing more can come of this session; `failure` says why if it is not a proper Close.
  closed = false;
  failure = null;

  constructor({ lanes, experimentId, attachToken }) {
    this.laneCount = lanes;
    this.experimentId = experimentId;
    this.attachToken = attachToken;
    this.id = randomBytes(8).toString('hex');
    this.resumeToken = randomBytes(16);
    this.#startOver();
  }

  // The first message on every stream, later ones too. The state stays: hello decides what becomes of it.
  open() {
    this.#greeted = false;
    return { seq: '0', contract: this.#contract(false) };
  }

  handle(message) {
    const seq = BigInt(message.seq); // uint64 comes as a string: a Number would lose the high bits
    const { kind } = message;
    try {
      if (kind === 'hello') return this.#hello(seq, message.hello);
      if (!this.#greeted) throw invalid('kind', kind ?? 'nothing', 'hello first');
      if (kind === 'ping') {
        if (seq !== 0n) throw invalid('seq of ping', seq, '0');
        return { seq: '0', pong: {} };
      }
      // Asked again, perhaps because the answer was lost: executing twice would move the lanes twice.
      if (seq === this.#last && this.#stored) return this.#stored;
      const expected = this.#stored ? `${this.#last + 1n} (or ${this.#last} again)` : '1';
      if (seq !== this.#last + 1n) throw invalid('seq', seq, expected);
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      return errorOf(seq, refusal); // not stored: the next seq is still the one expected
    }
    this.#stored = this.#execute(seq, message);
    this.#last = seq;
    return this.#stored;
  }

  #execute(seq, message) {
    const started = process.hrtime.bigint();
    let answer;
    try {
      answer = { seq: String(seq), ...this.#run(message) };
    } catch (error) {
      if (error instanceof Refusal) {
        answer = errorOf(seq, error);
      } else {
        // A fault of the environment itself. The trainer has to hear of it, or it would wait until its deadline.
        answer = {
          seq: String(seq),
          error: { code: 'ERROR_CODE_CRASHED', message: String(error), recoverable: false, debug: error.stack ?? '' },
        };
      }
    }
    answer.env_ns = String(process.hrtime.bigint() - started);
    return answer;
  }

  #run(message) {
    switch (message.kind) {
      case 'reset':
        return { transition: this.#reset(message.reset) };
      case 'step':
        return { transition: this.#step(message.step) };
      case 'close':
        this.closed = true;
        return { closed: { message: message.close.reason } };
      default: // snapshot, restore, and whatever a later protocol may bring
        throw new Refusal('ERROR_CODE_UNSUPPORTED', 'kind', message.kind ?? 'unknown', 'reset, step, close or ping');
    }
  }

  #hello(seq, hello) {
    if (seq !== 0n) throw invalid('seq of hello', seq, '0');
    if (hello.generation !== GENERATION) {
      this.failure = `generation: given "${hello.generation}", expected "${GENERATION}"`;
      const error = { code: 'ERROR_CODE_UNSUPPORTED', message: this.failure, recoverable: false };
      return { seq: '0', error };
    }
    const resumed = hello.session_id === this.id && hello.resume_token.length === this.resumeToken.length
      && timingSafeEqual(hello.resume_token, this.resumeToken);
    // A trainer that does not come back to this session counts from 1 and must not meet another one's state.
    if (!resumed) this.#startOver();
    this.#greeted = true;
    return { seq: '0', contract: this.#contract(resumed) };
  }

  #startOver() {
    this.#lanes = Array.from({ length: this.laneCount }, () => ({ env: new Lane(), ready: false }));
    this.#last = 0n;
    this.#stored = null;
  }

  #contract(resumed) {
    return {
      generation: GENERATION,
      capabilities: CAPABILITIES,
      component: environment.COMPONENT,
      version: environment.VERSION,
      language: 'javascript',
      env_id: environment.ENV_ID,
      observation: environment.OBSERVATION_SPACE,
      action: environment.ACTION_SPACE,
      lanes: this.laneCount,
      autoreset: 'AUTORESET_MODE_SAME_STEP',
      mask_len: ACTIONS,
      max_episode_steps: environment.MAX_EPISODE_STEPS,
      deterministic: true,
      session_id: this.id,
      resume_token: this.resumeToken,
      lease_ms: LEASE_MS,
      resumed,
      last_seq: String(resumed ? this.#last : 0n),
      experiment_id: this.experimentId,
      attach_token: this.attachToken,
    };
  }

  // Which lanes are meant, checked. Twice the same lane would give it two rows in one answer.
  #select(lanes) {
    if (lanes.length === 0) return this.#lanes.map((_, lane) => lane);
    lanes.forEach((lane, row) => {
      if (lane >= this.laneCount) throw invalid('lanes', lane, `0 to ${this.laneCount - 1}`);
      if (lanes.indexOf(lane) !== row) throw invalid('lanes', `${lane} twice`, 'every lane once');
    });
    return lanes;
  }

  #reset({ lanes, seeds }) { // this environment has no options: options_json is left alone
    const selected = this.#select(lanes);
    if (seeds.length !== 0 && seeds.length !== selected.length) {
      throw invalid('seeds', seeds.length, `0 or ${selected.length}, one for each lane`);
    }
    selected.forEach((lane, row) => {
      const entry = this.#lanes[lane];
      if (seeds.length !== 0) entry.env.seed(BigInt(seeds[row])); // zero is a seed like any other
      entry.env.reset();
      entry.ready = true;
    });
    return this.#transition(selected, lanes);
  }

  #step({ action, lanes, want }) {
    const selected = this.#select(lanes);
    const unready = selected.filter((lane) => !this.#lanes[lane].ready);
    if (unready.length !== 0) {
      throw new Refusal('ERROR_CODE_NOT_READY', 'lanes', `step of ${unready}`, 'a reset of them first', unready);
    }
    const strange = want.find((leaf) => leaf !== 0);
    if (strange !== undefined) throw invalid('want', strange, '0, the only leaf');
    const actions = this.#readActions(action, selected);
    return this.#transition(selected, lanes, (row) => this.#lanes[selected[row]].env.step(actions[row]));
  }

  // Every action is checked before the first lane moves, so that a wrong one leaves all lanes where they were.
  #readActions(slabs, selected) {
    if (slabs.length !== 1) throw invalid('action', `${slabs.length} slabs`, '1');
    const bytes = selected.length * ACTION_BYTES;
    if (slabs[0].length !== bytes) throw invalid('action', `${slabs[0].length} bytes`, `${bytes}`);
    const actions = [];
    const wrong = { values: [], lanes: [], allowed: [] };
    selected.forEach((lane, row) => {
      const value = slabs[0].readBigInt64LE(row * ACTION_BYTES);
      const { env } = this.#lanes[lane];
      const known = value >= 0n && value < BigInt(ACTIONS);
      if (!known || !env.allows(Number(value))) {
        const allowed = Array.from({ length: ACTIONS }, (_, one) => one).filter((one) => env.allows(one));
        wrong.values.push(`${value} in lane ${lane}`);
        wrong.allowed.push(`one of ${allowed.join(' ')} in lane ${lane}`);
        wrong.lanes.push(lane);
      }
      actions.push(Number(value));
    });
    if (wrong.lanes.length !== 0) {
      throw new Refusal(
        'ERROR_CODE_INVALID_ACTION', 'action', wrong.values.join(', '), wrong.allowed.join(', '), wrong.lanes,
      );
    }
    return actions;
  }

  // Reset and Step answer alike. A lane that `advance` finishes is reset in the same step: its row shows the next
  // episode, and the observation and mask it ended with go into final_obs and final_mask.
  #transition(selected, echoed, advance = null) {
    const rows = selected.length;
    const obs = Buffer.alloc(rows * OBS_LEN * FLOAT_BYTES);
    const reward = Buffer.alloc(rows * FLOAT_BYTES);
    const terminated = Buffer.alloc(rows);
    const truncated = Buffer.alloc(rows);
    const mask = Buffer.alloc(rows * ACTIONS);
    const finalObs = [];
    const finalMask = [];
    const infos = [];
    selected.forEach((lane, row) => {
      const { env } = this.#lanes[lane];
      const result = advance?.(row);
      if (result) {
        reward.writeFloatLE(result.reward, row * FLOAT_BYTES);
        terminated[row] = result.terminated ? 1 : 0;
        truncated[row] = result.truncated ? 1 : 0;
      }
      if (result?.terminated || result?.truncated) {
        const lastObs = Buffer.alloc(OBS_LEN * FLOAT_BYTES);
        const lastMask = Buffer.alloc(ACTIONS);
        env.observe(lastObs, 0);
        env.mask(lastMask, 0);
        finalObs.push(lastObs);
        finalMask.push(lastMask);
        infos.push({ lane, scalars: { is_success: env.succeeded() ? 1 : 0 } });
        env.reset();
      }
      env.observe(obs, row * OBS_LEN * FLOAT_BYTES);
      env.mask(mask, row * ACTIONS);
    });
    return {
      obs: [obs],
      reward,
      terminated,
      truncated,
      final_obs: finalObs.length === 0 ? [] : [Buffer.concat(finalObs)],
      action_mask: mask,
      final_mask: Buffer.concat(finalMask),
      infos,
      lanes: echoed,
    };
  }
}

// The environment. A simulator of your own replaces this file and keeps session.js and simulator.js:
// export the same names, and a Lane with seed, reset, observe, allows, mask, step and succeeded.
import { randomBytes } from 'node:crypto';

const SIZE = 5;
const GOAL = { row: SIZE - 1, col: SIZE - 1 };
const MOVES = [[-1, 0], [1, 0], [0, -1], [0, 1]]; // up, down, left, right
const UINT64 = (1n << 64n) - 1n;

export const ENV_ID = 'Grid-5x5';
export const COMPONENT = 'grid-node';
export const VERSION = '1.0.0';
export const MAX_EPISODE_STEPS = 50;
export const OBS_LEN = 4; // float32 values in one observation
export const ACTIONS = MOVES.length; // also the length of the mask

const float32 = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
};

export const OBSERVATION_SPACE = {
  shape: [OBS_LEN],
  dtype: 'DTYPE_FLOAT32',
  box: { low: float32(0), high: float32(1) }, // one element each: the same bound for all four
  names: ['row', 'col', 'goal_row', 'goal_col'],
  encoding: 'ENCODING_RAW',
};
export const ACTION_SPACE = {
  shape: [],
  dtype: 'DTYPE_INT64',
  discrete: { n: ACTIONS, start: 0 },
  encoding: 'ENCODING_RAW',
};

// splitmix64. It takes the whole 64-bit seed, so no two seeds of the protocol fall together. BigInt is slow, but only
// a reset draws from it.
class Random {
  constructor(seed) {
    this.state = seed & UINT64;
  }

  next() {
    this.state = (this.state + 0x9e3779b97f4a7c15n) & UINT64;
    let z = this.state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & UINT64;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & UINT64;
    return z ^ (z >> 31n);
  }

  below(n) {
    return Number(this.next() % BigInt(n));
  }
}

export class Lane {
  constructor() {
    // Nobody has given a seed yet, and two simulators must not play the same episodes.
    this.random = new Random(randomBytes(8).readBigUInt64LE());
    this.row = 0;
    this.col = 0;
    this.steps = 0;
  }

  seed(seed) {
    this.random = new Random(seed);
  }

  // Goes on in the lane's own random sequence: episodes after the first follow from the first seed too.
  reset() {
    const cell = this.random.below(SIZE * SIZE - 1); // the last cell is the goal, and no episode starts there
    this.row = Math.floor(cell / SIZE);
    this.col = cell % SIZE;
    this.steps = 0;
  }

  // Writes one row of the observation slab.
  observe(slab, offset) {
    const scale = SIZE - 1;
    slab.writeFloatLE(this.row / scale, offset);
    slab.writeFloatLE(this.col / scale, offset + 4);
    slab.writeFloatLE(GOAL.row / scale, offset + 8);
    slab.writeFloatLE(GOAL.col / scale, offset + 12);
  }

  allows(action) {
    const row = this.row + MOVES[action][0];
    const col = this.col + MOVES[action][1];
    return row >= 0 && row < SIZE && col >= 0 && col < SIZE;
  }

  // Writes one row of the mask slab: 1 = allowed.
  mask(slab, offset) {
    for (let action = 0; action < ACTIONS; action += 1) slab[offset + action] = this.allows(action) ? 1 : 0;
  }

  succeeded() {
    return this.row === GOAL.row && this.col === GOAL.col;
  }

  // The caller has checked the action with allows().
  step(action) {
    this.row += MOVES[action][0];
    this.col += MOVES[action][1];
    this.steps += 1;
    const terminated = this.succeeded();
    // Reaching the goal with the last step is an end, not a cut.
    const truncated = !terminated && this.steps >= MAX_EPISODE_STEPS;
    return { reward: terminated ? 1 : -0.1, terminated, truncated };
  }
}

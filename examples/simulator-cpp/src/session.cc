#include "session.h"

#include <algorithm>
#include <exception>
#include <random>
#include <utility>

namespace sim {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kGeneration[] = "sim-v2";
constexpr std::size_t kTokenBytes = 16;

std::string random_bytes(std::size_t count) {
  std::random_device device;
  std::string bytes;
  while (bytes.size() < count) bytes.push_back(static_cast<char>(device() & 0xFF));
  return bytes;
}

std::string hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

// Takes the same time wherever the first difference is, so that a token cannot be found byte by byte.
bool same_token(const std::string& given, const std::string& expected) {
  if (expected.empty() || given.size() != expected.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i] ^ expected[i]);
  return difference == 0;
}

Reply refuse(grpc::StatusCode code, const std::string& message) {
  Reply reply;
  reply.status = grpc::Status(code, message);
  return reply;
}

grpc::Status wrong_generation(const std::string& given) {
  return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                      "generation: given \"" + given + "\", this simulator speaks \"" + kGeneration + "\"");
}

const char* unsupported_name(const v2::ToEnv& message) { return message.has_snapshot() ? "snapshot" : "restore"; }

}  // namespace

Session::Session(Environment& environment, SessionConfig config)
    : environment_(environment), config_(std::move(config)) {
  rename();
}

Session::Link Session::connect(Kind kind, HangUp hang_up, bool admitted) {
  const std::lock_guard<std::mutex> lock(peers_mutex_);
  const Link link = next_link_++;
  peers_.emplace(link, Peer{kind, std::move(hang_up), admitted});
  return link;
}

// The stream is the lease: when it is lost its fast lanes go too, and the trainer has lease_ms to come back.
void Session::disconnect(Link link) {
  const std::lock_guard<std::mutex> lock(peers_mutex_);
  peers_.erase(link);
  if (link != owner_) return;
  owner_ = 0;
  lease_end_ = Clock::now() + std::chrono::milliseconds(config_.lease_ms);
  hang_up_others(link, /*streams_too=*/false);
}

Reply Session::handle(Link link, const v2::ToEnv& message) {
  const bool ping = message.has_ping() && message.seq() == 0;
  std::unique_lock<std::mutex> work(work_mutex_, std::defer_lock);
  if (!ping) work.lock();
  {
    const std::lock_guard<std::mutex> lock(peers_mutex_);
    const auto found = peers_.find(link);
    if (found == peers_.end()) return refuse(grpc::StatusCode::ABORTED, "the session was resumed on another stream");
    Peer& peer = found->second;
    if (message.has_hello()) return peer.kind == Kind::kStream ? open(link, message) : join(peer, message);
    if (!peer.admitted) {
      return refuse(grpc::StatusCode::INVALID_ARGUMENT, "the first message must be hello with seq 0");
    }
  }
  if (!ping) return answer(message);
  Reply reply;
  reply.answer.mutable_pong();
  return reply;
}

Reply Session::open(Link link, const v2::ToEnv& message) {
  const v2::Hello& hello = message.hello();
  if (message.seq() != 0) {
    return refuse(grpc::StatusCode::INVALID_ARGUMENT,
                  "seq of hello: given " + std::to_string(message.seq()) + ", expected 0");
  }
  if (hello.generation() != kGeneration) {
    Reply reply;
    reply.status = wrong_generation(hello.generation());
    return reply;
  }
  const bool named = live_ && hello.session_id() == session_id_;
  const bool returning = named && same_token(hello.resume_token(), resume_token_);
  if (config_.guarded && named && !returning) {
    return refuse(grpc::StatusCode::PERMISSION_DENIED, "resume_token: not the one of session " + session_id_);
  }
  if (config_.guarded && !returning && taken()) return refuse(grpc::StatusCode::RESOURCE_EXHAUSTED, lease_text());

  hang_up_others(link, /*streams_too=*/true);
  if (!returning) begin(hello);
  if (!config_.data_plane.empty()) data_plane_token_ = random_bytes(kTokenBytes);
  owner_ = link;
  peers_.at(link).admitted = true;
  agreed_.set_resumed(returning);
  Reply reply;
  *reply.answer.mutable_contract() = contract();
  return reply;
}

// A fast lane never begins a session: it joins the one whose contract named its token.
Reply Session::join(Peer& peer, const v2::ToEnv& message) {
  const v2::Hello& hello = message.hello();
  const bool known = live_ && message.seq() == 0 && hello.session_id() == session_id_ &&
                     (peer.admitted || same_token(hello.data_plane_token(), data_plane_token_));
  if (!known) return refuse(grpc::StatusCode::UNAUTHENTICATED, "hello must have seq 0, session_id and the token");
  if (hello.generation() != kGeneration) {
    Reply reply;
    reply.status = wrong_generation(hello.generation());
    return reply;
  }
  peer.admitted = true;
  Reply reply;
  *reply.answer.mutable_contract() = contract();
  return reply;
}

Reply Session::answer(const v2::ToEnv& message) {
  Reply reply;
  const std::uint64_t seq = message.seq();
  if (seq != 0 && seq == last_seq_) {
    reply.answer.ParseFromString(last_answer_);
    return reply;
  }
  reply.answer.set_seq(seq);
  if (seq != last_seq_ + 1) {
    std::string expected = std::to_string(last_seq_ + 1);
    if (last_seq_ != 0) expected += " (the next) or " + std::to_string(last_seq_) + " (the last again)";
    set_error(reply.answer, v2::ERROR_CODE_INVALID_REQUEST,
              "seq: given " + std::to_string(seq) + ", expected " + expected);
    return reply;
  }
  const auto start = Clock::now();
  execute(message, reply);
  const auto spent = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
  reply.answer.set_env_ns(static_cast<std::uint64_t>(spent.count()));
  last_seq_ = seq;
  reply.answer.SerializeToString(&last_answer_);
  return reply;
}

// The trainer must hear of whatever an environment throws, or it would wait for an answer until its deadline.
void Session::execute(const v2::ToEnv& message, Reply& reply) {
  if (!live_) {
    set_error(reply.answer, v2::ERROR_CODE_CLOSED, "the session was closed");
    return;
  }
  try {
    carry_out(message, reply);
  } catch (const std::exception& error) {
    set_error(reply.answer, v2::ERROR_CODE_CRASHED, std::string("the environment threw: ") + error.what())
        .set_recoverable(false);
  }
}

void Session::carry_out(const v2::ToEnv& message, Reply& reply) {
  switch (message.kind_case()) {
    case v2::ToEnv::kReset:
      environment_.reset(message.reset(), reply.answer);
      return;
    case v2::ToEnv::kStep:
      environment_.step(message.step(), reply.answer);
      return;
    case v2::ToEnv::kClose:
      live_ = false;  // the links stay: the trainer may ask for Closed again, and hangs up itself
      reply.answer.mutable_closed()->set_message(message.close().reason());
      reply.ended = true;
      return;
    case v2::ToEnv::kPing:
      reply.answer.mutable_pong();
      return;
    case v2::ToEnv::kSnapshot:
    case v2::ToEnv::kRestore:
      set_error(reply.answer, v2::ERROR_CODE_UNSUPPORTED,
                std::string("kind: given ") + unsupported_name(message) + ", expected reset, step, close or ping");
      return;
    default:
      set_error(reply.answer, v2::ERROR_CODE_INVALID_REQUEST,
                "kind: given none this simulator knows, expected reset, step, close or ping");
      return;
  }
}

// The contract of whoever sends this hello, without what belongs to a session.
v2::Contract Session::offer(const v2::Hello& hello) const {
  v2::Contract offer;
  environment_.describe(offer);
  offer.add_capabilities("resume");
  offer.set_generation(kGeneration);
  offer.set_experiment_id(config_.experiment_id);
  const auto& wanted = hello.capabilities();
  if (wanted.empty()) return offer;  // nothing said is nothing ruled out
  v2::Contract agreed = offer;
  agreed.clear_capabilities();
  for (const std::string& name : offer.capabilities()) {
    if (std::find(wanted.begin(), wanted.end(), name) != wanted.end()) agreed.add_capabilities(name);
  }
  return agreed;
}

void Session::begin(const v2::Hello& hello) {
  agreed_ = offer(hello);
  environment_.begin(agreed_);
  // A trainer that we dialled knows us by the name of our first message; one that dials us gets another each time.
  if (config_.guarded) rename();
  last_seq_ = 0;
  last_answer_.clear();
  live_ = true;
}

void Session::rename() {
  session_id_ = hex(random_bytes(kTokenBytes));
  resume_token_ = random_bytes(kTokenBytes);
}

bool Session::taken() const { return live_ && (owner_ != 0 || Clock::now() < lease_end_); }

std::string Session::lease_text() const {
  const std::string start = "this simulator has one session at a time and another trainer holds it";
  if (owner_ != 0) return start;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(lease_end_ - Clock::now());
  return start + "; it is disconnected and its lease runs out in " + std::to_string(left.count()) + " ms";
}

void Session::hang_up_others(Link link, bool streams_too) {
  for (auto peer = peers_.begin(); peer != peers_.end();) {
    const bool concerned = peer->second.kind == Kind::kFastLane || streams_too;
    if (peer->first == link || !concerned || !peer->second.admitted) {
      ++peer;
      continue;
    }
    peer->second.hang_up();
    peer = peers_.erase(peer);
  }
}

v2::Contract Session::contract() const {
  v2::Contract result = agreed_;
  result.set_session_id(session_id_);
  result.set_resume_token(resume_token_);
  result.set_lease_ms(config_.lease_ms);
  result.set_last_seq(last_seq_);
  if (!config_.data_plane.empty()) {
    result.add_data_plane(config_.data_plane);
    result.set_data_plane_token(data_plane_token_);
  }
  return result;
}

grpc::Status Session::describe(const v2::Hello& hello, v2::Contract& contract) const {
  if (hello.generation() != kGeneration) return wrong_generation(hello.generation());
  contract = offer(hello);
  return grpc::Status::OK;
}

v2::FromEnv Session::greeting() {
  const std::lock_guard<std::mutex> lock(work_mutex_);
  v2::FromEnv first;
  if (!live_) agreed_ = offer(v2::Hello());
  *first.mutable_contract() = contract();
  first.mutable_contract()->set_resumed(live_);
  return first;
}

}  // namespace sim

// One answer in KoboldCPP's or Halo Weave's words before llama-server, part by part.
#pragma once

#include "server/front/kobold_request.h"
#include "server/front/llama_stream.h"

#include <memory>
#include <optional>

namespace attnscope::server {

// Belongs to one thread at a time.
class KoboldAnswer {
public:
    // Sends the request; `asked`: the client's, for its headers. Waits for the head of the program's answer. Its own words where the
    // program refuses.
    static Result<std::unique_ptr<KoboldAnswer>> start(FrontService& service, const LlamaProgram& program,
                                                       const httplib::Request& asked, KoboldRequest request,
                                                       const GoneAway& gone);
    // Waits for the next part. A StreamEnd or StreamFailure is the last one. Nothing: it was, or nobody wants the rest.
    std::optional<StreamPart> next();
    // Somebody ends it: an end comes, "aborted".
    void cancel() { one_->cancel(); }
    const KoboldRequest& request() const { return request_; }

private:
    KoboldAnswer(FrontService& service, KoboldRequest request, const GoneAway& gone);
    Result<void> send(const LlamaProgram& program, httplib::Request to_program);
    std::optional<StreamPart> taken(StreamPart part);
    void end(StreamEnd& end);

    FrontService& service_;
    const KoboldRequest request_;
    const GoneAway gone_;
    const std::shared_ptr<Answers::One> one_;
    std::shared_ptr<Upstream> upstream_;
    std::unique_ptr<LlamaStream> stream_;
    bool over_ = false;
};

} // namespace attnscope::server

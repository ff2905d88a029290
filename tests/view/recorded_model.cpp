#include "view/recorded_model.h"

#include <stdexcept>

namespace attnscope::test {

namespace {

template <class T> T need(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    return std::move(*result);
}
void need(const Result<void>& result) {
    if (!result) throw std::runtime_error(result.error().message);
}

} // namespace

RecordedModel::RecordedModel(const LiveShape& shape, int64_t n, uint32_t seed, int64_t blind) : model(shape, seed) {
    RecordingInfo info;
    info.settings_json = "{}";
    const std::string path = folder.file("model.attn");
    auto writer = need(RecordingWriter::create(path, info));
    need(writer->begin(model.geometry()));
    keys = need(KeyStore::create(model.geometry(), n));
    for (int64_t i = 0; i < n; ++i) {
        Frame frame = model.next(i < n / 2);
        if (blind > 0 && i % blind == blind - 1) frame.q.clear();
        need(keys->append(frame));
        frames.push_back(frame);
        need(writer->push(std::move(frame)));
    }
    need(writer->close());
    recording = need(Recording::open(path));
    source = need(AttentionSource::of(*recording));
}

} // namespace attnscope::test

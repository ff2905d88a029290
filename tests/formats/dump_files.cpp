#include "formats/dump_files.h"

#include "formats/export_halo_weave.h"

#include <fstream>
#include <stdexcept>

#include <zip.h>

namespace attnscope::test {

void write_bytes(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

namespace {

std::string as_bytes(const std::vector<float>& values) {
    return {static_cast<const char*>(static_cast<const void*>(values.data())), values.size() * sizeof(float)};
}

std::string list_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (size_t i = 0; i < shape.size(); ++i) text.append(i ? ", " : "").append(std::to_string(shape[i]));
    return text;
}

std::vector<float> fortran_order(const std::vector<int64_t>& shape, const std::vector<float>& values) {
    std::vector<float> out(values.size());
    std::vector<int64_t> at(shape.size(), 0);
    for (const float value : values) {
        size_t place = 0;
        for (size_t d = shape.size(); d-- > 0;) place = place * size_t(shape[d]) + size_t(at[d]);
        out[place] = value;
        for (size_t d = shape.size(); d-- > 0 && ++at[d] == shape[d];) at[d] = 0;
    }
    return out;
}

} // namespace

std::string npy_bytes(const std::vector<int64_t>& shape, const std::vector<float>& values, bool fortran) {
    std::string header = "{'descr': '<f4', 'fortran_order': ";
    header.append(fortran ? "True" : "False").append(", 'shape': (").append(list_text(shape)).append(",), }\n");
    std::string out("\x93NUMPY\x01\x00", 8);
    out += static_cast<char>(header.size());
    out += '\0';
    out += header;
    return out + as_bytes(fortran ? fortran_order(shape, values) : values);
}

std::string safetensors_bytes(const std::vector<int64_t>& shape, const std::vector<float>& values,
                              const std::string& name) {
    std::string header = "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[";
    header.append(list_text(shape)).append("],\"data_offsets\":[0,");
    header.append(std::to_string(values.size() * sizeof(float))).append("]}}");
    std::string out;
    for (int i = 0; i < 8; ++i) out += static_cast<char>(header.size() >> (8 * i) & 0xFF);
    return out + header + as_bytes(values);
}

void write_npz(const std::string& path, const std::string& member, const std::string& npy, bool deflate) {
    int code = 0;
    zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code);
    if (!archive) throw std::runtime_error("cannot make " + path);
    zip_source_t* source = zip_source_buffer(archive, npy.data(), npy.size(), 0);
    const zip_int64_t index = zip_file_add(archive, (member + ".npy").c_str(), source, ZIP_FL_OVERWRITE);
    if (index < 0 ||
        zip_set_file_compression(archive, zip_uint64_t(index), deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0) != 0 ||
        zip_close(archive) != 0) {
        throw std::runtime_error("cannot write " + path);
    }
}

void write_npz(const std::string& path, const std::vector<std::pair<std::string, std::string>>& members,
               const std::string& suffix) {
    int code = 0;
    zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code);
    if (!archive) throw std::runtime_error("cannot make " + path);
    for (const auto& [name, bytes] : members) {
        zip_source_t* source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
        const zip_int64_t index = zip_file_add(archive, (name + suffix).c_str(), source, ZIP_FL_OVERWRITE);
        if (index < 0 || zip_set_file_compression(archive, zip_uint64_t(index), ZIP_CM_STORE, 0) != 0)
            throw std::runtime_error("cannot write " + path);
    }
    if (zip_close(archive) != 0) throw std::runtime_error("cannot write " + path);
}

void write_halo_weave(const std::string& folder, const SyntheticCapture& capture, bool json_form) {
    auto writer = formats::HaloWeaveFolderWriter::create(folder, capture.info.model, json_form);
    if (!writer) throw std::runtime_error(writer.error().message);
    for (size_t i = 0; i < capture.tokens.size(); ++i) {
        if (auto done = (*writer)->add(capture.tokens[i].view(int64_t(i))); !done) {
            throw std::runtime_error(done.error().message);
        }
    }
    if (auto done = (*writer)->close(); !done) throw std::runtime_error(done.error().message);
}

} // namespace attnscope::test

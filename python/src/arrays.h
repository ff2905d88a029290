// Memory of ours as NumPy arrays, without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace attnscope::python {

template <typename T> using Array = nanobind::ndarray<nanobind::numpy, T>;

// `data` lives as long as the array does; `owner` keeps it alive.
template <typename T, typename Owner>
Array<T> array(T* data, std::initializer_list<size_t> shape, std::shared_ptr<Owner> owner) {
    auto* const kept = new std::shared_ptr<Owner>(std::move(owner));
    const nanobind::capsule capsule(kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<Owner>*>(p); });
    return Array<T>(data, shape, capsule);
}

template <typename T> Array<T> array(std::vector<T>&& values, std::initializer_list<size_t> shape) {
    const auto owner = std::make_shared<std::vector<T>>(std::move(values));
    return array(owner->data(), shape, owner);
}
template <typename T> Array<T> array(std::vector<T>&& values, const std::vector<size_t>& shape) {
    auto* const owner = new std::vector<T>(std::move(values));
    const nanobind::capsule capsule(owner, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Array<T>(owner->data(), shape.size(), shape.data(), capsule);
}
template <typename T> Array<T> array(std::vector<T>&& values) {
    const size_t n = values.size();
    return array(std::move(values), {n});
}

} // namespace attnscope::python

// PyTorch's `cuda` device on a machine without a GPU: its memory is the host's, its kernels are the CPU's.
//
// A PyTorch that was built without CUDA knows the device by name and all rules that go with it (autocast's lists, the fused
// optimizers, GradScaler), but nothing is registered for it. Registered here is what a backend has to bring: hooks, a device
// guard, and kernels. A tensor on this device really is on it: mixing it with one of the host is an error, as is reading
// it from Python without a copy. To be loaded before `import torch`, which asks for the hooks once and keeps the answer.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/_log_softmax_backward_data.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {
using namespace at;

const Device HOST(kCPU), GPU(kCUDA, 0);

// ---------------------------------------------------------------- what the device answers when it is asked about itself

// Its work is done when a call returns, so streams and events have nothing to wait for. However many devices are counted in
// Python, all tensors are on the first.
struct Guard : c10::impl::NoOpDeviceGuardImpl<kCUDA> {
  Device getDevice() const override { return GPU; }
  Device exchangeDevice(Device) const override { return GPU; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, GPU); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, GPU); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, GPU); }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// Found by its name, which is the key that libtorch looks up.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  void deviceSynchronize(DeviceIndex) const override {}
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetDefaultCPUAllocator(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

// ---------------------------------------------------------------- the same memory seen from the other device

c10::DataPtr shared(const c10::Storage& storage, Device device) {
  auto* kept = new c10::Storage(storage);  // counted once more, for as long as the alias lives
  return {kept->mutable_data(), kept, [](void* kept) { delete static_cast<c10::Storage*>(kept); }, device};
}

Tensor alias(const Tensor& tensor, Device device) {
  const auto& storage = tensor.storage();
  auto key = device.is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
  auto made = at::detail::make_tensor<TensorImpl>(
      c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), shared(storage, device), c10::GetDefaultCPUAllocator(), true),
      c10::DispatchKeySet(key), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return made;
}
Tensor on_host(const Tensor& tensor) { return tensor.is_cuda() ? alias(tensor, HOST) : tensor; }
Tensor on_gpu(const Tensor& tensor) { return tensor.is_cpu() ? alias(tensor, GPU) : tensor; }

// A kernel that writes may also have resized: then the alias has got other memory or another shape, and the original follows.
void follow(const Tensor& original, const Tensor& alias) {
  auto* storage = original.storage().unsafeGetStorageImpl();
  if (storage->data() != alias.storage().data()) {
    storage->set_data_ptr_noswap(shared(alias.storage(), GPU));
    storage->set_nbytes(alias.storage().nbytes());
  }
  if (original.sizes() != alias.sizes() || original.strides() != alias.strides())
    original.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
}

// ---------------------------------------------------------------- kernels: the CPU's, whatever the operator

// Puts change(tensor) in the place of each tensor that an argument or a result holds.
template <class Change>
void for_tensors(c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const auto& tensor : value.toTensorVector()) list.push_back(tensor.defined() ? change(tensor) : tensor);
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
      list.push_back(tensor && tensor->defined() ? std::optional<Tensor>(change(*tensor)) : tensor);
    value = list;
  }
}

// Runs any operator: its tensors on this device give way to aliases on the host, and the results come back.
void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto& returns = op.schema().returns();
  const std::vector<c10::IValue> given(stack->end() - arguments.size(), stack->end());
  std::vector<std::pair<Tensor, Tensor>> aliases;
  bool host = false;
  for (auto value = stack->end() - arguments.size(); value != stack->end(); ++value) {
    if (value->isDevice()) *value = HOST;
    const bool indices = value->isOptionalTensorList();  // these may come from the host, for CUDA's kernels too,
    for_tensors(*value, [&](const Tensor& tensor) {
      host |= tensor.is_cpu() && tensor.dim() > 0 && !indices;  // as may numbers, which are tensors without dimensions
      return tensor.is_cuda() ? aliases.emplace_back(tensor, alias(tensor, HOST)).second : tensor;
    });
  }
  TORCH_CHECK(!host || aliases.empty() || op.schema().name() == "aten::copy_",
      "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (in ", op.schema().name(), ")");
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (const auto& [original, alias] : aliases) follow(original, alias);
  for (size_t i = 0; i < returns.size(); i++) {
    auto& value = (*stack)[stack->size() - returns.size() + i];
    const auto* written = returns[i].alias_info();
    if (!written || !written->isWrite()) {
      for_tensors(value, on_gpu);
      continue;
    }
    for (size_t k = 0; k < arguments.size(); k++)  // an operator that writes returns the argument that it has written to
      if (const auto* info = arguments[k].alias_info(); info && *info == *written) value = given[k];
  }
}

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<MemoryFormat> format) {
  return on_gpu(at::empty(size, TensorOptions().dtype(dtype).device(HOST), format));
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<Layout>,
                            std::optional<Device>, std::optional<bool>) {
  return on_gpu(at::empty_strided(size, stride, TensorOptions().dtype(dtype).device(HOST)));
}

// Autocast asks CUDA's softmax for a float32 result of float16 input (and its gradient the other way round), which the CPU's refuses.
Tensor widened(const Tensor& tensor, bool to_float) { return to_float ? on_host(tensor).to(kFloat) : on_host(tensor); }

Tensor softmax(const Tensor& self, int64_t dim, bool to_float) {
  return on_gpu(at::_softmax(widened(self, to_float), dim, false));
}
Tensor log_softmax(const Tensor& self, int64_t dim, bool to_float) {
  return on_gpu(at::_log_softmax(widened(self, to_float), dim, false));
}
Tensor softmax_backward(const Tensor& gradient, const Tensor& output, int64_t dim, ScalarType input) {
  return on_gpu(at::_softmax_backward_data(on_host(gradient), on_host(output), dim, gradient.scalar_type()).to(input));
}
Tensor log_softmax_backward(const Tensor& gradient, const Tensor& output, int64_t dim, ScalarType input) {
  return on_gpu(at::_log_softmax_backward_data(on_host(gradient), on_host(output), dim, gradient.scalar_type()).to(input));
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  // Views share the storage itself, so that PyTorch sees that they do; a kernel of the CPU would be given an alias.
  m.impl("view", native::view);
  m.impl("as_strided", native::as_strided_tensorimpl);
  m.impl("_reshape_alias", native::_reshape_alias);
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, c10::Storage)>(native::set_));
  m.impl("set_.source_Storage_storage_offset", native::set_storage_cpu_);
  m.impl("_softmax", softmax);
  m.impl("_log_softmax", log_softmax);
  m.impl("_softmax_backward_data", softmax_backward);
  m.impl("_log_softmax_backward_data", log_softmax_backward);
  // PyTorch's own kernel for any device goes before a fallback, and knows nothing of this one.
  m.impl("copy_", torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

}  // namespace

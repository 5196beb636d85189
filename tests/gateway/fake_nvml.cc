// A stand-in for NVIDIA's management library: two GPUs, of which the second can't tell its power.
#include <cstring>

namespace {
unsigned long long energy = 5000;  // millijoules
char gpus[2];                      // their addresses are the handles
}  // namespace

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &gpus[index];
  return 0;
}
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  std::strncpy(uuid, device == &gpus[0] ? "GPU-one" : "GPU-two", length);
  return 0;
}
int nvmlDeviceGetUtilizationRates(void*, unsigned* percents) {
  percents[0] = 25;
  percents[1] = 50;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* bytes) {
  bytes[0] = 1000;
  bytes[1] = 400;
  bytes[2] = 600;
  return 0;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  *milliwatts = 1500;
  return device == &gpus[0] ? 0 : 3;
}
int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) {
  *milliwatts = 3000;
  return device == &gpus[0] ? 0 : 3;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  *millijoules = energy;
  energy += 250;
  return device == &gpus[0] ? 0 : 3;
}
}

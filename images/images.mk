# The images, built by docker, podman or buildah, whichever is here first, or by the test cluster's own builder
# where the folder `shared` lies beside the project. Each of the variables below may be given to make.
IMAGE_REGISTRY ?=
IMAGE_TAG ?= $(VERSION)
IMAGE_FLAGS ?=
KIT := $(wildcard ../shared/cluster/build-image)
IMAGE_BUILDER ?= $(if $(KIT),kit,$(notdir $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))))
BASE_IMAGE ?= $(if $(filter kit,$(IMAGE_BUILDER)),kubedet-base:bookworm)

# The one place of the version: what is built, its label and its tag.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

image = $(IMAGE_REGISTRY)kubedet-$(1):$(IMAGE_TAG)
build.docker = docker build
build.podman = podman build --format docker
build.buildah = buildah build --format docker --layers
build.kit = $(KIT)
# An empty TORCH_PACKAGES makes an image without torch, which is then mounted.
flags.trainer = $(if $(filter-out undefined,$(origin TORCH_PACKAGES)),--build-arg TORCH_PACKAGES="$(TORCH_PACKAGES)")
build = $(or $(build.$(IMAGE_BUILDER)),$(error IMAGE_BUILDER: got '$(IMAGE_BUILDER)', must be docker, podman or buildah)) \
	--file images/$(1)/Dockerfile --tag $(call image,$(1)) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	$(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	$(flags.$(1)) $(IMAGE_FLAGS) .

# An image as one file. The kit's builder has written it already, and says where.
save.docker = docker save --output $(2) $(call image,$(1))
save.podman = podman save --quiet --format docker-archive --output $(2) $(call image,$(1))
save.buildah = buildah push --quiet $(call image,$(1)) docker-archive:$(2):$(call image,$(1))
save.kit = ln --symbolic --force "$$($(call build,$(1)))" $(2)

.PHONY: images
images: image-operator image-trainer ## Build both images

.PHONY: image-operator image-trainer
image-operator image-trainer: image-%:
	$(call build,$*)

.PHONY: sbom
sbom: sbom-operator sbom-trainer ## Write what Python packages are in the images, as CycloneDX JSON, to build/sbom

.PHONY: sbom-operator sbom-trainer
sbom-operator sbom-trainer: sbom-%: $(VENV)/dev.stamp image-%
	mkdir -p build/sbom
	rm -f build/sbom/$*.tar
	$(call save.$(IMAGE_BUILDER),$*,build/sbom/$*.tar)
	$(BIN)/python images/sbom.py build/sbom/$*.tar build/sbom/kubedet-$*-$(VERSION).cdx.json
	rm build/sbom/$*.tar

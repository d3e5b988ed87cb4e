# Builds the images with the first of docker, podman and buildah that is installed, or with the builder of the test
# cluster if the folder `shared` is next to the project. Each of the variables below can be set on make's command line.
IMAGE_REGISTRY ?=
IMAGE_TAG ?= $(VERSION)
IMAGE_FLAGS ?=
KIT := $(wildcard ../shared/cluster/build-image)
IMAGE_BUILDER ?= $(if $(KIT),kit,$(notdir $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))))
BASE_IMAGE ?= $(if $(filter kit,$(IMAGE_BUILDER)),kubedet-base:bookworm)

# pyproject.toml is the only source of the version, for the build, the label and the tag.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

image = $(IMAGE_REGISTRY)kubedet-$(1):$(IMAGE_TAG)
build.docker = docker build
build.podman = podman build --format docker
build.buildah = buildah build --format docker --layers
build.kit = $(KIT)
# With an empty TORCH_PACKAGES the image has no torch. Mount torch instead.
flags.trainer = $(if $(filter-out undefined,$(origin TORCH_PACKAGES)),--build-arg TORCH_PACKAGES="$(TORCH_PACKAGES)") \
	$(if $(TORCH_INDEX),--build-arg TORCH_INDEX="$(TORCH_INDEX)")
build = $(or $(build.$(IMAGE_BUILDER)),$(error IMAGE_BUILDER: got '$(IMAGE_BUILDER)', must be docker, podman or buildah)) \
	--file images/$(1)/Dockerfile --tag $(call image,$(1)) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	$(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	$(flags.$(1)) $(IMAGE_FLAGS) .

# An image as one file. The kit's builder has already written it and prints its path.
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
sbom: sbom-operator sbom-trainer ## List the Python packages of the images as CycloneDX JSON in build/sbom

.PHONY: sbom-operator sbom-trainer
sbom-operator sbom-trainer: sbom-%: $(VENV)/dev.stamp image-%
	mkdir -p build/sbom
	rm -f build/sbom/$*.tar
	$(call save.$(IMAGE_BUILDER),$*,build/sbom/$*.tar)
	$(BIN)/python images/sbom.py build/sbom/$*.tar build/sbom/kubedet-$*-$(VERSION).cdx.json
	rm build/sbom/$*.tar
